"Prediction as a user meets it: any image file, a fresh interpreter, the network that is shipped"

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from pneumoprune import prediction
from pneumoprune.alexnet import narrow_alexnet
from pneumoprune.benchmark import peak_memory
from pneumoprune.core import MissingExtra, PneumopruneError, decode_image, read_json, run_onnx, sha256
from pneumoprune.prediction import (
    OnnxModel,
    PredictionError,
    explain_file,
    occlusion_map,
    predict_files,
    read_image,
    save_heatmap,
)
from pneumoprune.quantization import export_onnx
from pneumoprune.synthetic import phantoms


@pytest.fixture(scope="module")
def xray():
    return phantoms(40, size=96, seed=2).images[0, 0]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    with pytest.warns(UserWarning, match="proves nothing"):
        export_onnx(narrow_alexnet((8, 8, 8, 8, 8), (8, 8), planes=1, seed=0), path, size=64)
    return path


@pytest.mark.parametrize("kind", ["L", "1", "P", "LA", "RGB", "RGBA", "I;16"])
def test_png_of_every_mode_is_read_as_in_training(kind, xray, tmp_path):
    if kind == "I;16":
        image = Image.fromarray(xray.astype(np.uint16) * 16)  # twelve bits
    else:
        image = Image.fromarray(xray).convert(kind)
    image.save(tmp_path / "x.png")
    found = read_image(tmp_path / "x.png", 64)
    assert found.dtype == np.uint8 and found.shape == (1, 64, 64)
    assert np.array_equal(found[0], decode_image(tmp_path / "x.png", 64))
    plain = np.asarray(Image.fromarray(xray).resize((64, 64), Image.Resampling.BILINEAR), float)
    assert np.abs(found[0] - plain).mean() < (20 if kind == "1" else 1)  # one bit is dithered


@pytest.mark.parametrize("kind", ["L", "RGB", "CMYK"])
def test_jpeg_turned_by_exif_is_read_as_in_training(kind, xray, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    Image.fromarray(xray).resize((400, 300)).convert(kind).save(tmp_path / "x.jpeg", exif=exif, quality=95)
    found = read_image(tmp_path / "x.jpeg", 64)[0]
    assert np.array_equal(found, decode_image(tmp_path / "x.jpeg", 64))
    upright = np.asarray(Image.fromarray(xray).resize((400, 300)).rotate(-90, expand=True).resize((64, 64)), float)
    assert np.abs(found - upright).mean() < 12


@pytest.mark.parametrize("cut", [0, 10, 100, 1000])
def test_damaged_images_are_refused_by_name(cut, xray, tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(xray).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:cut])
    with pytest.raises(PredictionError, match="cut.png"):
        read_image(tmp_path / "cut.png", 64)


def test_without_pydicom_the_remedy_is_named(tmp_path, monkeypatch):
    (tmp_path / "x.dcm").write_bytes(b"\0" * 128 + b"DICM")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtra, match=r'x.dcm, a DICOM file, needs pydicom.*pip install "pneumoprune\[dicom\]"'):
        read_image(tmp_path / "x.dcm", 64)
    Image.new("L", (64, 64)).save(tmp_path / "y.png")
    assert ["error" in row for row in predict_files([tmp_path], skip_unreadable=True)] == [True, False]


def test_without_a_shipped_network_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(prediction, "_SHIPPED", ("models", "absent.onnx"))
    with pytest.raises(PredictionError, match="--model FILE"):
        OnnxModel()


def test_the_shipped_network_is_found_in_the_package(file, monkeypatch, tmp_path):
    monkeypatch.setattr(prediction.resources, "files", lambda package: tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "slim-int8.onnx").write_bytes(file.read_bytes())
    images = np.zeros((1, 1, 64, 64), np.uint8)
    assert OnnxModel().predict(images) == OnnxModel(file).predict(images)


def test_occlusion_covers_every_pixel_and_leaves_the_image_alone(file, xray):
    model = OnnxModel(file)
    image = np.asarray(Image.fromarray(xray).resize((64, 64)))[None].copy()
    before = image.copy()
    heat = occlusion_map(model, image, patch=10, stride=7)
    assert np.isfinite(heat).all() and heat.shape == (64, 64) and np.array_equal(image, before)
    assert heat.std() > 0
    whole = occlusion_map(model, image, patch=64)
    grey = np.full_like(image, round(float(image.mean())))
    fall = model.predict(image[None]) - model.predict(grey[None])
    assert np.allclose(whole, fall, atol=1e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_cold_prediction_is_quick_and_small(file, xray, tmp_path):
    import resource

    Image.fromarray(xray).save(tmp_path / "x.png")
    code = (
        "import sys; from pneumoprune.prediction import predict_files, format_predictions;"
        f"print(format_predictions(predict_files([{str(tmp_path / 'x.png')!r}], {str(file)!r})));"
        # the high-water mark since the program started; getrusage would include the process that forked it
        "print(*[line for line in open('/proc/self/status') if line.startswith('VmHWM')], file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "probability of pneumonia" in done.stdout and "no medical device" in done.stdout
    assert int(done.stderr.split()[1]) / 1024 < 150  # MiB
    # time on the processor: what others do to the machine doesn't count
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_files_and_opened_models_are_the_same_argument(file, xray, tmp_path):
    Image.fromarray(xray).save(tmp_path / "x.png")
    assert predict_files([tmp_path], file) == predict_files([str(tmp_path / "*.png")], OnnxModel(file))


ROOT = Path(__file__).parent.parent


def test_the_shipped_network_is_that_of_the_reference_run():
    shipped, info = ROOT / "pneumoprune/models/slim-int8.onnx", read_json(ROOT / "results/reference/run.json")
    assert sha256(shipped) == info["slim-int8.onnx"]
    threshold = read_json(ROOT / "results/reference/summary.json")["models"]["slim-int8"]["threshold"]
    model = OnnxModel()
    assert model.threshold == threshold and model.size == info["settings"]["size"]
    assert model.metadata["fingerprint"] == info["data"]["fingerprint"]


def test_one_prediction_from_the_shell_is_cold_small_and_without_torch(xray, tmp_path):
    Image.fromarray(xray).save(tmp_path / "x.png")
    source = (
        "import sys; sys.argv = ['pneumoprune', 'predict', sys.argv[1]]; from pneumoprune.cli import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", source, str(tmp_path / "x.png")]
    assert peak_memory(command) <= 150
    start = os.times()
    done = subprocess.run(command, capture_output=True, text=True)
    end = os.times()
    assert done.returncode == 0 and "no medical device" in done.stdout, done.stderr
    # time on the processor: what others do to the machine doesn't count
    assert end.children_user + end.children_system - start.children_user - start.children_system < 1.5


# --- model files of a stranger --------------------------------------------------------------------------------------


def refused(call, *told):
    "A refusal in one line that holds these words"
    with pytest.raises(PneumopruneError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500 and all(words in message for words in told), message


ABOUT = {"classes": '["NORMAL", "PNEUMONIA"]', "threshold": "0.5", "size": "64"}


def stranger(path, text, opset=21, **about):
    "An ONNX file of this graph that says about itself what ours say"
    header = f'<ir_version: 10, opset_import: ["" : {opset}]>'
    model = onnx.parser.parse_model(f"{header} g {text}")
    onnx.helper.set_model_props(model, ABOUT | about)
    onnx.save(model, path)
    return path


def answering(path, formula, **about):
    "A file that computes `p` from `y`, the mean of each image in 0..255"
    text = ("(uint8[n, 1, 64, 64] images) => (float[n] p) "
            "<int64[3] axes = {1, 2, 3}, float a = {255.0}, float zero = {0.0}> "
            "{ x = Cast <to = 1> (images) y = ReduceMean <keepdims = 0> (x, axes) " + formula + " }")
    return stranger(path, text, **about)


GREY = np.full((3, 1, 64, 64), 51, np.uint8)


def test_a_file_of_another_program_that_answers_properly(tmp_path):
    assert np.allclose(OnnxModel(answering(tmp_path / "m.onnx", "p = Div (y, a)")).predict(GREY), 0.2)


@pytest.mark.parametrize("formula, told", [
    ("p = Identity (y)", "answers 51 to 51, no probabilities"),
    ("p = Neg (y)", "answers -51 to -51"),
    ("q = Div (zero, zero) p = Add (y, q)", "answers nan to nan"),
])
def test_answers_that_are_no_probabilities(formula, told, tmp_path):
    model = OnnxModel(answering(tmp_path / "m.onnx", formula))
    refused(lambda: model.predict(GREY), "m.onnx", told)


@pytest.mark.parametrize("about, told", [
    ({"classes": '["NORMAL"]'}, "not two names"), ({"classes": '["A", "A"]'}, "not two names"),
    ({"classes": '"AB"'}, "not two names"), ({"classes": "[1, 2]"}, "none of pneumoprune"),
    ({"classes": '{"A": 1, "B": 2}'}, "not two names"), ({"classes": "[" * 10**5}, "none of pneumoprune"),
    ({"threshold": "nan"}, "no share in 0..1"), ({"threshold": "7"}, "no share"), ({"threshold": "-inf"}, "no share"),
    ({"threshold": "half"}, "none of pneumoprune"), ({"size": "96"}, "its input is tensor(uint8)"),
    ({"size": "64.5"}, "none of pneumoprune"), ({"size": "9" * 5000}, "none of pneumoprune"),
])
def test_metadata_that_make_no_sense(about, told, tmp_path):
    path = answering(tmp_path / "m.onnx", "p = Div (y, a)", **about)
    refused(lambda: OnnxModel(path), "m.onnx", told)


@pytest.mark.parametrize("text, told", [
    ("(float[IMAGE] images) => (float[IMAGE] p) { p = Relu (images) }", "its input is tensor(float)"),
    ("(uint8[n, 3, 64, 64] images) => (uint8[IMAGE] p) { p = Identity (images) }", "its input is tensor(uint8)"),
    ("(uint8[IMAGE] images) => (uint8[IMAGE] p) { p = Identity (images) }", "its output is tensor(uint8)"),
    ("(uint8[IMAGE] images) => (float[IMAGE] p) { p = Cast <to = 1> (images) }", "its output is tensor(float)"),
    ("(uint8[IMAGE] images, uint8[IMAGE] more) => (uint8[IMAGE] p) { p = Add (images, more) }",
     "its input is tensor(uint8) ['n', 1, 64, 64] and tensor(uint8)"),
])
def test_signatures_that_are_not_ours(text, told, tmp_path):
    refused(lambda: OnnxModel(stranger(tmp_path / "m.onnx", text.replace("IMAGE", "n, 1, 64, 64"))), "m.onnx", told)


def test_a_loop_without_end_is_stopped(tmp_path):
    loop = ("limit = Constant <value_int = 9223372036854775807> () go = Constant <value = bool {1}> () "
            "z = Loop (limit, go, y) <body = b (int64 i, bool on, float[n] s) => (bool on2, float[n] s2) "
            "{ on2 = Identity (on) s2 = Mul (s, a) }> p = Div (z, z)")
    model = OnnxModel(answering(tmp_path / "m.onnx", loop))
    start = time.perf_counter()
    refused(lambda: run_onnx(model.session, GREY, name="m.onnx", seconds=0.3), "m.onnx fails", "terminate")
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("write, told", [
    (lambda path: path.mkdir(), "holds no models/slim-int8.onnx; give a run with its models, or an ONNX file"),
    (lambda path: None, "is missing"),
    (lambda path: path.write_bytes(b"junk\njunk"), "no ONNX file"),
    (lambda path: path.write_bytes(b""), "x."),
])
@pytest.mark.parametrize("name", ["x.onnx", "x.txt"])
def test_models_that_are_none(write, told, name, tmp_path):
    write(tmp_path / name)
    refused(lambda: OnnxModel(tmp_path / name), name, told)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".SAFETENSORS"])
def test_a_network_of_pytorch_is_of_the_wrong_kind_not_damaged(suffix, tmp_path):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"weights")
    refused(lambda: OnnxModel(path), f"net{suffix} is a network of PyTorch, no ONNX file")


def test_every_cut_of_a_model_is_refused(file, tmp_path):
    content = file.read_bytes()
    for cut in range(0, len(content) - 1, len(content) // 30):
        (tmp_path / "cut.onnx").write_bytes(content[:cut])
        refused(lambda: OnnxModel(tmp_path / "cut.onnx"), "cut.onnx")


# --- images of a stranger -------------------------------------------------------------------------------------------


def dicom(path, rows=64, columns=64, data=b"\0" * 64 * 64 * 2, deflated=False, **fields):
    "A minimal DICOM file"
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian if deflated else ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    made.Rows, made.Columns, made.SamplesPerPixel = rows, columns, 1
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 0
    made.PhotometricInterpretation, made.PixelData = "MONOCHROME2", data
    for name, value in fields.items():
        setattr(made, name, value)
    made.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("fields, told", [
    ({"rows": 60000, "columns": 60000}, "3600 million pixels are more than the 64 million allowed"),
    ({"NumberOfFrames": 10**5}, "pixels are more"),
    ({"RescaleSlope": "nan", "RescaleIntercept": 0}, "x.dcm can't be read"),
    ({"RescaleSlope": "inf", "RescaleIntercept": 0}, "x.dcm can't be read"),
    ({"rows": 0}, "x.dcm"),
    ({"data": b"\0" * 10}, "x.dcm can't be read"),
    ({"data": bytes(4 * 10_000 + 10), "deflated": True, "max_pixels": 10_000}, "pixels are more"),
])
@pytest.mark.filterwarnings("ignore")
def test_dicom_that_is_not_believed(fields, told, tmp_path):
    limit = {name: fields.pop(name) for name in ("max_pixels",) if name in fields}
    refused(lambda: read_image(dicom(tmp_path / "x.dcm", **fields), 64, **limit), "x.dcm", told)


def test_deflated_dicom_is_read(tmp_path):
    values = (np.arange(64 * 64) % 251).astype("<u2")
    plain, packed = (dicom(tmp_path / f"{kind}.dcm", data=values.tobytes(), deflated=kind) for kind in (False, True))
    assert np.array_equal(read_image(plain, 64), read_image(packed, 64)) and read_image(plain, 64).max() == 255


def test_the_limit_of_pixels_is_an_option(file, tmp_path):
    Image.new("L", (100, 100), 7).save(tmp_path / "x.png")
    assert len(predict_files([tmp_path], file, max_pixels=10_000)) == 1
    refused(lambda: predict_files([tmp_path], file, max_pixels=9_999), "x.png", "more than the 0.009999 million")
    (row,) = predict_files([tmp_path], file, max_pixels=9_999, skip_unreadable=True)
    assert "pixels" in row["error"]


def test_a_small_file_of_many_pixels_takes_no_memory(file, tmp_path):
    Image.new("1", (16000, 16000)).save(tmp_path / "bomb.png")  # 32 kB that would be 256 MB of grey levels
    call = f"predict_files([{str(tmp_path / 'bomb.png')!r}], {str(file)!r})"
    source = f"from pneumoprune.prediction import *\ntry: {call}\n"
    assert peak_memory(source + "except PredictionError as error: assert 'pixels' in str(error)\nelse: 1 / 0") < 150


@pytest.mark.parametrize("wrong", [0, -1, 2.5, float("nan"), "3"])
def test_counts_and_sizes_are_whole_numbers(wrong, file, xray, tmp_path):
    Image.fromarray(xray).save(tmp_path / "x.png")
    model, image = OnnxModel(file), np.zeros((1, 64, 64), np.uint8)
    refused(lambda: read_image(tmp_path / "x.png", wrong), "size is")
    refused(lambda: read_image(tmp_path / "x.png", 64, max_pixels=wrong), "limit of pixels is")
    refused(lambda: model.predict(image[None], batch_size=wrong), "batch_size is")
    refused(lambda: occlusion_map(model, image, patch=wrong), "patch is")
    refused(lambda: occlusion_map(model, image, stride=wrong), "stride is")
    heat, out = image[0] * 1.0, tmp_path / "h.png"
    refused(lambda: save_heatmap(image, heat, out, side=wrong), "side is")
    refused(lambda: explain_file(tmp_path / "x.png", out, tmp_path / "n.safetensors", size=wrong), "size")
    if wrong != 0:
        refused(lambda: OnnxModel(file, threads=wrong), "threads is")
        refused(lambda: save_heatmap(image, heat, out, opacity=wrong), "opacity is")
    assert not out.exists()


def test_explain_refuses_a_network_that_takes_no_grey_images(tmp_path):
    from torch import nn

    from pneumoprune.networks import save_network
    from pneumoprune.prediction import PredictionError, explain_file

    save_network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)), tmp_path / "rgb.safetensors")
    Image.new("L", (64, 64)).save(tmp_path / "x.png")
    with pytest.raises(PredictionError, match="does not take grey images; give a network of a run"):
        explain_file(tmp_path / "x.png", tmp_path / "heat.png", tmp_path / "rgb.safetensors", size=64)
    assert not (tmp_path / "heat.png").exists()
