"Exported files against the networks they came from: whole pipelines, and images nobody would send"

import copy

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn
from torch.nn.utils import parametrize

from pneumoprune.alexnet import Standardise, fold_gray, narrow_alexnet
from pneumoprune.compaction import ProofWarning, compact
from pneumoprune.core import PneumopruneError
from pneumoprune.evaluation import EvaluationError
from pneumoprune.prediction import OnnxModel, PredictionError
from pneumoprune.pruning import apply_recipe, make_permanent, prunable
from pneumoprune.quantization import (
    QuantizationError,
    amount_by_bits,
    check_parity,
    export_onnx,
    finetune_quantized,
    predict_onnx,
    quantize_int8,
    read_metadata,
    set_threshold,
)
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


# --- masked networks -------------------------------------------------------------------------------------------------


def fresh(seed=0):
    "A masked network in the middle of training: its weights are part of a graph, and `copy.deepcopy` refuses them"
    net = apply_recipe(narrow_alexnet((8, 8, 8, 8, 8), (16, 16), dropout=0, seed=seed))
    net.train()(torch.randint(0, 256, (2, 1, SIZE, SIZE)).float()).sum().backward()
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(net)
    return net


def dead(net):
    "The input channels of each layer that carry nothing"
    weights = {name: layer.weight.detach() for name, layer in prunable(net).items()}
    return {name: (weight == 0).transpose(0, 1).flatten(1).all(1) for name, weight in weights.items()}


def test_a_freshly_masked_network_is_exported_as_it_stands(xrays, tmp_path):
    net = fresh()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    export_onnx(net, tmp_path / "masked.onnx", size=SIZE, xrays=xrays)
    export_onnx(make_permanent(net), tmp_path / "plain.onnx", size=SIZE, xrays=xrays)
    found = [predict_onnx(tmp_path / f"{name}.onnx", xrays.images) for name in ("masked", "plain")]
    assert np.array_equal(*found) and np.abs(found[0] - predict(net, xrays)).max() < 1e-5
    names = {constant.name for constant in onnx.load(tmp_path / "masked.onnx").graph.initializer}
    assert {f"{layer}.weight" for layer in prunable(net)} <= names  # what quantisation looks for
    quantize_int8(tmp_path / "masked.onnx", tmp_path / "q.onnx", xrays, methods=["minmax"], max_auc_loss=1, agreement=0)
    assert net.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_training_with_rounding_keeps_the_masks(xrays):
    net = fresh()
    gone = dead(net)
    settings = TrainSettings(epochs=1, lr=1e-2, batch_size=16, augment=0, progression=(), device="cpu")
    aware, _ = finetune_quantized(net, xrays, settings)
    assert not parametrize.is_parametrized(aware)
    assert all((found[gone[name]]).all() for name, found in dead(aware).items())
    assert any((a.weight != b.weight).any() for a, b in zip(prunable(aware).values(), prunable(net).values()))
    assert "weight_mask" in dict(prunable(net)["features.3"].named_buffers())  # the given one is as it was
    copy.deepcopy(aware)


def test_amounts_by_bits_go_on_from_the_masks(xrays):
    net = fresh()
    gone = dead(net)
    table = amount_by_bits(net, xrays, amounts=(0.2,))
    assert table["file (MB)", "float32"].loc[0.2] < table["file (MB)", "float32"].loc[0]
    assert all(torch.equal(found, gone[name]) for name, found in dead(net).items())


# --- what does not fit -----------------------------------------------------------------------------------------------


class Answers(nn.Module):
    "A network of standardised images that answers in some other way"

    def __init__(self, outputs=2, answer=lambda y: y):
        super().__init__()
        self.standardise, self.layer, self.answer = Standardise(1), nn.Linear(SIZE * SIZE, outputs), answer

    def forward(self, x):
        return self.answer(self.layer(self.standardise(x).flatten(1)))


def refused(call, *told):
    "The message of a refusal: one line that names the thing and the remedy"
    with pytest.raises(PneumopruneError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500 and all(words in message for words in told), message


@pytest.mark.parametrize("net, told", [
    (Answers(1), "(2, 1), not with (2, 2)"),
    (Answers(3), "(2, 3), not with (2, 2)"),
    (Answers(2, lambda y: y[:, 0]), "(2,), not with (2, 2)"),
    (Answers(2, lambda y: (y, y)), "tuple, not with (2, 2)"),
    (Answers(2, lambda y: {"out": y}), "dict, not with (2, 2)"),
    (Answers(2, lambda y: y if y.sum() > 0 else -y), "PyTorch can't export the network"),
    (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)), "put `Standardise` in front"),
    (Answers(2, lambda y: y * torch.nan), "NaN"),
    (Answers(2, lambda y: {}["y"]), "can't take grey images"),
    (Answers(2, lambda y: exec("raise AssertionError('no such size')")), "no such size"),
])
def test_networks_that_do_not_fit_are_refused_by_name(net, told, xrays, tmp_path):
    refused(lambda: export_onnx(net, tmp_path / "a.onnx", size=SIZE, xrays=xrays), told)
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("size", [0, -1, 32, 65, 64.5, None, "64"])
def test_sizes_that_do_not_fit(size, tmp_path):
    refused(lambda: export_onnx(Answers(), tmp_path / "a.onnx", size=size, xrays=None), "size")


def test_images_that_do_not_fit(xrays, gray_file, tmp_path):
    net, other = narrow_alexnet((8, 8, 8, 8, 8), (8, 8)), phantoms(40, size=96)
    path = tmp_path / "a.onnx"
    refused(lambda: export_onnx(net, path, size=SIZE, xrays=other), "load them with size=64")
    refused(lambda: export_onnx(net, path, size=SIZE, xrays=xrays.take([])), "0 of 64 × 64")
    refused(lambda: quantize_int8(gray_file, path, other), "load them with size=64")
    for images in (other.images, xrays.images.astype(np.float32), xrays.images[:, 0]):
        refused(lambda images=images: predict_onnx(gray_file, images), "takes images uint8 (N, 1, 64, 64)")
    for how in ({"batch_size": 0}, {"batch_size": 2.5}, {"threads": -1}, {"threads": None}):
        refused(lambda how=how: predict_onnx(gray_file, xrays.images, **how), "give a whole number")
    assert not path.exists()


def foreign(path):
    "An ONNX file of another program"
    text = '<ir_version: 10, opset_import: ["" : 21]> other (float[n] x) => (float[n] y) { y = Relu (x) }'
    onnx.save(onnx.parser.parse_model(text), path)


@pytest.mark.parametrize("write, told", [
    (lambda path: None, "missing"),
    (lambda path: path.mkdir(), "is a folder, no file"),
    (lambda path: path.write_bytes(b"junk"), "no ONNX file"),
    (lambda path: path.write_bytes(b""), "holds no network"),
    (foreign, "none of pneumoprune"),
])
def test_files_that_are_none_are_refused_by_name(write, told, xrays, tmp_path):
    path = tmp_path / "x.onnx"
    write(path)
    refused(lambda: quantize_int8(path, tmp_path / "q.onnx", xrays), "x.onnx", told)
    refused(lambda: set_threshold(path, 0.5), "x.onnx", told)
    if write is not foreign:  # whose metadata are empty, and may be read
        refused(lambda: read_metadata(path), "x.onnx", told)


def test_half_a_file_is_no_file(gray_file, xrays, tmp_path):
    path = tmp_path / "half.onnx"
    path.write_bytes(gray_file.read_bytes()[:-5000])
    quantize = lambda path: quantize_int8(path, tmp_path / "q.onnx", xrays)
    for call in (read_metadata, lambda path: set_threshold(path, 0.5), quantize):
        refused(lambda call=call: call(path), "half.onnx")


@pytest.mark.parametrize("wish, told", [
    ({"methods": ["foo"]}, "choose from minmax, entropy, percentile"),
    ({"methods": "minmax"}, "choose from minmax"),
    ({"methods": []}, "choose from minmax"),
    ({"images": 0}, "images to calibrate with is 0"),
    ({"images": -3}, "images to calibrate with is -3"),
    ({"images": 2.5}, "images to calibrate with is 2.5"),
    ({"seed": -1}, "the seed is -1"),
    ({"seed": "0"}, "the seed is '0'"),
    ({"agreement": 99}, "share in 0..1"),
    ({"agreement": float("nan")}, "share in 0..1"),
    ({"max_auc_loss": float("nan")}, "max_auc_loss is nan"),
    ({"max_auc_loss": "little"}, "max_auc_loss is little"),
    ({"float_layers": ["conv9"]}, "has no layer conv9"),
])
def test_wishes_that_cannot_be_met(wish, told, gray_file, xrays, tmp_path):
    refused(lambda: quantize_int8(gray_file, tmp_path / "q.onnx", xrays, **wish), told)
    assert not (tmp_path / "q.onnx").exists()


def test_eight_bits_are_not_quantised_again(gray_file, xrays, tmp_path):
    quantize_int8(gray_file, tmp_path / "q.onnx", xrays, methods=["minmax"], max_auc_loss=1, agreement=0)
    refused(lambda: quantize_int8(tmp_path / "q.onnx", tmp_path / "qq.onnx", xrays), "no float weights")


def test_layers_and_images_of_training_with_rounding(xrays):
    net, settings = narrow_alexnet((8, 8, 8, 8, 8), (8, 8)), TrainSettings(epochs=1, device="cpu")
    refused(lambda: finetune_quantized(net, xrays, settings, float_layers=["conv9"]), "has no layer conv9")
    refused(lambda: finetune_quantized(net, xrays, settings, images=0), "images to calibrate with is 0")


@pytest.mark.parametrize("amounts", [[0.5], [-0.1], [float("nan")], [40], ["much"], [0.1, None]])
def test_amounts_are_shares_below_one_half(amounts, xrays):
    refused(lambda: amount_by_bits(narrow_alexnet((8, 8, 8, 8, 8), (8, 8)), xrays, amounts=amounts), "an amount is")


@pytest.mark.parametrize("arguments, told", [
    (([0.1, 0.9], [0.1, 0.9, 0.2]), "(2,) and (3,)"), (([], []), "(0,)"), (([[0.1]], [[0.1]]), "(1, 1)"),
])
def test_probabilities_that_do_not_pair(arguments, told):
    refused(lambda: check_parity(*arguments), "can't be checked on", told)


@pytest.mark.parametrize("how, told", [
    ({"threshold": 50}, "share in 0..1"), ({"threshold": float("nan")}, "share in 0..1"),
    ({"tolerance": float("nan")}, "allow more with tolerance"), ({"tolerance": -1}, "allow more with tolerance"),
])
def test_parity_is_asked_in_shares(how, told):
    refused(lambda: check_parity([0.1, 0.9], [0.1, 0.9], **how), told)


@pytest.mark.parametrize("place", ["file.txt/a.onnx", "folder"])
def test_places_that_cannot_be_written(place, gray_file, xrays, tmp_path):
    (tmp_path / "file.txt").touch()
    (tmp_path / "folder").mkdir()
    refused(lambda: quantize_int8(gray_file, tmp_path / place, xrays, methods=["minmax"]), place)


# --- networks that take grey levels as they are ----------------------------------------------------------------------


class Resized(nn.Module):
    "Standardisation in the middle: the head would come too early"

    def __init__(self):
        super().__init__()
        self.standardise, self.layer = Standardise(1), nn.Linear(SIZE * SIZE // 4, 2)

    def forward(self, x):
        return self.layer(self.standardise(nn.functional.max_pool2d(x, 2)).flatten(1))


def plain(outputs=2):
    layers = nn.Conv2d(1, 8, 5, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 7 * 7, outputs)
    network = nn.Sequential(*layers)
    with torch.no_grad():
        network[0].weight /= 100  # grey levels go up to 255
    return network


def test_a_network_without_standardisation_is_exported_as_it_is(xrays, tmp_path):
    torch.manual_seed(0)
    net = plain()
    fit(net, xrays, TrainSettings(epochs=2, batch_size=16, augment=0, progression=(), device="cpu"))
    expected = predict(net, xrays)
    for network, name in ((net, "plain"), (apply_recipe(copy.deepcopy(net)), "masked")):
        export_onnx(network, tmp_path / f"{name}.onnx", size=SIZE, xrays=xrays)
        found = OnnxModel(tmp_path / f"{name}.onnx").predict(xrays.images)
        assert np.abs(found - predict(network, xrays)).max() < 1e-5
    assert np.abs(predict_onnx(tmp_path / "plain.onnx", xrays.images) - expected).max() < 1e-5
    assert np.abs(found - expected).max() > 1e-3  # the recipe did something
    report = quantize_int8(tmp_path / "plain.onnx", tmp_path / "q.onnx", xrays, max_auc_loss=0.05, agreement=0.9)
    assert report.float_layers[0] == "0" and OnnxModel(tmp_path / "q.onnx").size == SIZE


def test_standardisation_in_the_middle_is_no_quiet_wrong_answer(xrays, tmp_path):
    torch.manual_seed(0)
    refused(lambda: export_onnx(Resized(), tmp_path / "a.onnx", size=SIZE, xrays=xrays), "another function")
    assert not (tmp_path / "a.onnx").exists()


# --- thresholds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [37.5, -1.0, float("nan"), float("inf")])
def test_thresholds_that_are_no_share_are_neither_written_nor_read(wrong, trained, gray_file, xrays, tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(gray_file.read_bytes())
    with pytest.raises(EvaluationError, match="give a share in 0..1"):
        set_threshold(path, wrong)
    assert path.read_bytes() == gray_file.read_bytes()
    for how in ({"threshold": wrong}, {"metadata": {"threshold": str(wrong)}}):
        with pytest.raises(EvaluationError, match="give a share in 0..1"):
            export_onnx(trained, tmp_path / "b.onnx", size=SIZE, xrays=xrays, **how)
    assert not (tmp_path / "b.onnx").exists()
    edited = onnx.load(path)
    onnx.helper.set_model_props(edited, read_metadata(path) | {"threshold": str(wrong)})
    onnx.save(edited, path)
    with pytest.raises(PredictionError, match="no share in 0..1"):
        OnnxModel(path)
    refused(lambda: quantize_int8(path, tmp_path / "q.onnx", xrays), "give a share in 0..1")
    set_threshold(path, 0.3)  # the remedy
    assert OnnxModel(path).threshold == 0.3


@pytest.mark.parametrize("end", [0, 1, np.nextafter(1, 2)])
def test_the_ends_are_thresholds(end, gray_file, tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(gray_file.read_bytes())
    set_threshold(path, end)
    assert OnnxModel(path).threshold == end
