"Standardisation as a layer: what every later stage must do with it"

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumoprune.alexnet import Standardise, XrayAlexNet, count_macs, narrow_alexnet
from pneumoprune.compaction import ProofWarning, compact
from pneumoprune.networks import load_network, save_network
from pneumoprune.pruning import apply_recipe
from pneumoprune.quantization import export_onnx, predict_onnx
from pneumoprune.synthetic import phantoms
from pneumoprune.training import predict

SIZE = 64
pytestmark = pytest.mark.filterwarnings(f"ignore::{ProofWarning.__module__}.ProofWarning")  # nothing is trained


@pytest.fixture(scope="module")
def images():
    return phantoms(40, size=SIZE, seed=0).images[:12]


@pytest.fixture
def network():
    return narrow_alexnet((8, 12, 16, 12, 8), (24, 16), seed=0).eval()


def test_weights_are_those_of_torchvision():
    assert XrayAlexNet().state_dict().keys() == torchvision.models.AlexNet().state_dict().keys()
    with torch.device("meta"):
        ours, theirs = XrayAlexNet(), torchvision.models.AlexNet()
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]


@settings(max_examples=30, deadline=None)
@given(contrast=st.floats(0.1, 1.0), offset=st.floats(0.0, 1.0), planes=st.sampled_from([1, 3]))
def test_exposure_and_contrast_are_not_seen(images, contrast, offset, planes):
    x = torch.as_tensor(images).double()
    changed = contrast * x + offset * (1 - contrast) * 255
    plain, other = Standardise(planes)(x), Standardise(planes)(changed)
    assert plain.shape == (len(images), planes, SIZE, SIZE) and plain.dtype == torch.float64
    # the one grey level that keeps a blank image finite is all that is left of the change
    deviation = contrast * x.std(dim=(1, 2, 3), correction=0).min()
    assert (plain - other).abs().max() <= plain.abs().max() / deviation


def test_integers_and_floats_mean_the_same_image(images, network):
    with torch.no_grad():
        assert torch.equal(network(torch.as_tensor(images)), network(torch.as_tensor(images).float()))


def test_layer_survives_compaction_and_the_file(images, network, tmp_path):
    masked = apply_recipe(network)
    small = compact(masked, torch.as_tensor(images).float())
    assert count_macs(small, (1, 1, SIZE, SIZE)) < count_macs(masked, (1, 1, SIZE, SIZE))
    save_network(small, tmp_path / "small.safetensors")
    loaded = load_network(tmp_path / "small.safetensors")
    assert isinstance(loaded.standardise, Standardise) and loaded.standardise.planes == 3
    assert np.array_equal(predict(loaded, images), predict(small, images))
    assert np.allclose(predict(small, images), predict(masked, images), atol=1e-5)


def test_onnx_file_standardises_once(images, network, tmp_path):
    "The file has a head of its own, which takes the layer's place"
    export_onnx(network, tmp_path / "network.onnx", size=SIZE)
    assert np.abs(predict_onnx(tmp_path / "network.onnx", images) - predict(network, images)).max() < 1e-5
    assert isinstance(network.standardise, Standardise)
