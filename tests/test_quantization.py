"Exported files against the networks they came from: whole pipelines, and images nobody would send"

import copy

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pneumoprune.alexnet import fold_gray, narrow_alexnet
from pneumoprune.compaction import ProofWarning, compact
from pneumoprune.prediction import OnnxModel
from pneumoprune.pruning import apply_recipe, prunable
from pneumoprune.quantization import QuantizationError, export_onnx, predict_onnx, quantize_int8, set_threshold
from pneumoprune.synthetic import phantoms
from pneumoprune.training import TrainSettings, fit, predict

pytestmark = pytest.mark.filterwarnings("ignore::pneumoprune.compaction.ProofWarning")
SIZE = 64


@pytest.fixture(scope="module")
def xrays():
    return phantoms(200, size=SIZE, seed=1)


@pytest.fixture(scope="module")
def trained(xrays):
    "A small network of three planes that knows something about phantoms"
    net = narrow_alexnet((8, 16, 16, 16, 16), (16, 16), dropout=0, seed=1)
    fit(net, xrays, TrainSettings(epochs=6, lr=3e-3, batch_size=16, ema=0.8, augment=0, progression=(), device="cpu"))
    return net


@pytest.fixture(scope="module")
def gray_file(trained, xrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "gray.onnx"
    export_onnx(fold_gray(trained), path, size=SIZE, xrays=xrays, threshold=0.4, metadata={"run": "test"})
    return path


def test_masked_and_compacted_networks_become_the_same_file_function(trained, xrays, tmp_path):
    masked = apply_recipe(copy.deepcopy(trained))
    small = compact(masked, torch.tensor(xrays.images[:8]).float())
    expected = predict(masked, xrays)
    assert np.abs(expected - predict(trained, xrays)).max() > 1e-3  # the recipe did something
    export_onnx(masked, tmp_path / "masked.onnx", size=SIZE, xrays=xrays)
    export_onnx(small, tmp_path / "small.onnx", size=SIZE, xrays=xrays)
    for name in ("masked", "small"):
        assert np.abs(predict_onnx(tmp_path / f"{name}.onnx", xrays.images) - expected).max() < 1e-5
    sizes = [(tmp_path / f"{name}.onnx").stat().st_size for name in ("small", "masked")]
    assert sizes[0] < 0.8 * sizes[1]


def test_folded_network_and_metadata(trained, xrays, gray_file):
    model = OnnxModel(gray_file)
    assert np.abs(model.predict(xrays.images) - predict(trained, xrays)).max() < 1e-5
    assert (model.threshold, model.size, model.metadata["run"]) == (0.4, SIZE, "test")
    assert model.metadata["fingerprint"] == xrays.fingerprint and model.metadata["training_data"] == xrays.source
    assert b"/site-packages/" not in gray_file.read_bytes()


@settings(max_examples=30, deadline=None)
@given(images=arrays.arrays(np.uint8, (2, 1, SIZE, SIZE), elements=st.integers(0, 255), fill=st.integers(0, 255)))
def test_preprocessing_in_the_file_is_that_of_training(images, trained, gray_file):
    assert np.abs(predict_onnx(gray_file, images) - predict(trained, images)).max() < 1e-4


def test_int8_file_is_small_integer_and_independent_of_batches(xrays, gray_file, tmp_path):
    path = tmp_path / "int8.onnx"
    report = quantize_int8(gray_file, path, xrays, agreement=0.9, max_auc_loss=0.02)
    assert path.stat().st_size < 0.45 * gray_file.stat().st_size
    kinds = {t.data_type for t in onnx.load(path).graph.initializer if np.prod(t.dims) > 1000}
    assert kinds == {onnx.TensorProto.INT8}
    before = predict_onnx(path, xrays.images)
    assert np.array_equal(before, predict_onnx(path, xrays.images, batch_size=7, threads=2))
    assert report.auc_int8 >= report.auc_float - 0.02 and report.float_layers[0] == "features.0"
    set_threshold(path, 0.7)
    assert OnnxModel(path).threshold == 0.7
    assert np.array_equal(before, predict_onnx(path, xrays.images))


def test_the_exporter_leaves_the_network_alone(trained, tmp_path):
    net = copy.deepcopy(trained).train()
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    export_onnx(net, tmp_path / "a.onnx", size=SIZE)
    assert net.training
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())


def test_a_calibration_that_cannot_be_computed_is_left_out_and_said(xrays, tmp_path):
    "A network that has learned nothing: one layer gives 1 for every image, up to the last bits"
    network = narrow_alexnet((8, 8, 8, 8, 8), (8, 8), planes=1, seed=0)
    layer = prunable(network)["classifier.1"]
    with torch.no_grad():
        layer.weight.mul_(1e-8)
        layer.bias.fill_(1.0)
    export_onnx(network, tmp_path / "dull.onnx", size=xrays.size, xrays=xrays)
    with pytest.warns(ProofWarning, match="percentile calibration .*hardly differ"):
        report = quantize_int8(tmp_path / "dull.onnx", tmp_path / "dull-int8.onnx", xrays, max_auc_loss=1)
    assert "percentile" not in report.methods.index and report.method in report.methods.index
    with pytest.raises(QuantizationError, match="calibrate with minmax"):
        quantize_int8(tmp_path / "dull.onnx", tmp_path / "never.onnx", xrays, methods=["percentile"])
    assert not (tmp_path / "never.onnx").exists()
