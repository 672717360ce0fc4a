"Prediction as a user meets it: any image file, a fresh interpreter, the network that is shipped"

import io
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumoprune import prediction
from pneumoprune.alexnet import narrow_alexnet
from pneumoprune.benchmark import peak_memory
from pneumoprune.core import MissingExtra, decode_image, read_json, sha256
from pneumoprune.prediction import OnnxModel, PredictionError, occlusion_map, predict_files, read_image
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


def test_a_cold_prediction_is_quick_and_small(file, xray, tmp_path):
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
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0 and "no medical device" in done.stdout, done.stderr
    assert min(seconds) < 3, seconds  # a second on a quiet machine; this one may be busy


def test_explain_refuses_a_network_that_takes_no_grey_images(tmp_path):
    from torch import nn

    from pneumoprune.networks import save_network
    from pneumoprune.prediction import PredictionError, explain_file

    save_network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)), tmp_path / "rgb.safetensors")
    Image.new("L", (64, 64)).save(tmp_path / "x.png")
    with pytest.raises(PredictionError, match="does not take grey images; give a network of a run"):
        explain_file(tmp_path / "x.png", tmp_path / "heat.png", tmp_path / "rgb.safetensors", size=64)
    assert not (tmp_path / "heat.png").exists()
