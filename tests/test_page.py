"""The page: its scripts under Node give what `predict` and `explain` give, of every kind of PNG and JPEG

What needs Node and ONNX Runtime Web (`make page` fetches it) is `hard`; `make test-page` runs all of it."""

import base64
import json
import re
import shutil
import struct
import subprocess
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumoprune.core import PneumopruneError
from pneumoprune.page import find_runtime, write_page
from pneumoprune.prediction import OnnxModel, format_predictions, occlusion_map, predict_files, read_image

ROOT = Path(__file__).parent.parent
NODE = shutil.which("node")


def runtime():
    "ONNX Runtime Web as `make page` leaves it, or None"
    try:
        return find_runtime(ROOT / "page/node_modules/onnxruntime-web")
    except PneumopruneError:
        return None


needs_node = pytest.mark.skipif(not (NODE and runtime()), reason="needs node, and onnxruntime-web of `make page`")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "site"
    return write_page(None, folder, runtime=runtime())


def ask(page, files, heat=()):
    "What the page's scripts tell of image files"
    listed = page.folder.parent / "list.json"
    listed.write_text(json.dumps([{"file": str(file), "heat": file in heat} for file in files]), encoding="utf-8")
    command = [NODE, ROOT / "tests/page.mjs", page.folder, listed]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def plane(told):
    return np.frombuffer(base64.b64decode(told["plane"]), np.uint8).astype(int)


def scene(rng, width, height):
    "Grey levels (height, width): soft blobs, an edge and noise"
    rows, columns = np.mgrid[:height, :width] / max(width, height)
    blobs = sum(np.exp(-((rows - rng.random()) ** 2 + (columns - rng.random()) ** 2) / 0.02) for _ in range(6))
    levels = 90 * blobs + 60 * (columns > rng.random()) + rng.normal(0, 6, (height, width))
    return levels.clip(0, 255).astype(np.uint8)


def png(width, height, depth, kind, rows, *, interlaced=False, **more):
    "A PNG file by hand, for what Pillow reads but does not write: `rows` are samples (height, width, channels)"
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    def packed(part):
        bits = np.unpackbits(part.astype(">u2").view(np.uint8).reshape(*part.shape, 2), axis=-1)[..., 16 - depth :]
        lines = np.packbits(bits.reshape(len(part), -1), axis=1)
        return b"".join(b"\0" + line.tobytes() for line in lines) if part.size else b""

    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    data = b"".join(packed(rows[y::dy, x::dx]) for y, x, dy, dx in (passes if interlaced else [(0, 0, 1, 1)]))
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    middle = b"".join(chunk(name.encode(), content) for name, content in more.items())
    body = chunk(b"IHDR", head) + middle + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def every_png(rng):
    "name -> bytes: each colour type, depth and transparency that PNG has, plain and interlaced"
    found = {}
    all_depths, kinds = {0: (1, 2, 4, 8, 16), 3: (1, 2, 4, 8)}, {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
    for kind, channels, depths in ((kind, kinds[kind], all_depths.get(kind, (8, 16))) for kind in kinds):
        for depth in depths:
            for clear in (False, True) if kind in (0, 2, 3) else (False,):
                for interlaced in (False, True):
                    width, height = rng.integers(33, 70, 2)
                    rows = rng.integers(0, 2**depth, (height, width, channels), dtype=np.uint16)
                    more = {"PLTE": rng.bytes(3 * min(2**depth, 200))} if kind == 3 else {}
                    if clear:
                        more["tRNS"] = rng.bytes(2**depth // 2) if kind == 3 else rows[0, 0].astype(">u2").tobytes()
                    name = f"{kind}-{depth}{'-clear' * clear}{'-interlaced' * interlaced}.png"
                    found[name] = png(width, height, depth, kind, rows, interlaced=interlaced, **more)
    rows = rng.integers(0, 4096, (40, 41, 1), dtype=np.uint16)
    found["12-bits.png"] = png(41, 40, 16, 0, rows)
    return found


def saved(image, kind, orientation=None, **options):
    file, exif = BytesIO(), Image.Exif()
    if orientation:
        exif[0x0112] = orientation
        options["exif"] = exif
    image.save(file, kind, **options)
    return file.getvalue()


@needs_node
@pytest.mark.hard
def test_every_kind_of_png_gives_the_same_levels(page, tmp_path):
    files = []
    for name, content in every_png(np.random.default_rng(0)).items():
        (tmp_path / name).write_bytes(content)
        files.append(tmp_path / name)
    wrong = {}
    for file, told in zip(files, ask(page, files)):
        expected = read_image(file, 224).ravel()
        if "plane" not in told or (plane(told) != expected).any():
            wrong[file.name] = told.get("error") or int(np.abs(plane(told) - expected).max())
    assert not wrong


def picture(rng, number, width, height):
    "An image file of one of eight kinds: suffix, bytes"
    image = Image.fromarray(scene(rng, width, height))
    tinted = Image.merge("RGB", [image, image.point(lambda v: int(0.9 * v)), image.point(lambda v: int(0.8 * v + 20))])
    kinds = [
        ("png", lambda: saved(image, "PNG")),
        ("jpg", lambda: saved(image, "JPEG", quality=int(rng.integers(60, 96)))),
        ("png", lambda: saved(tinted, "PNG")),
        ("jpg", lambda: saved(image, "JPEG", progressive=True, orientation=1 + number % 8)),
        ("png", lambda: saved(image.convert("LA"), "PNG")),
        ("png", lambda: saved(Image.fromarray(np.asarray(image).astype(np.uint16) * 16), "PNG")),
        ("png", lambda: saved(tinted.quantize(64), "PNG", orientation=1 + number % 8)),
        ("jpg", lambda: saved(tinted, "JPEG", subsampling=number % 3)),
    ]
    suffix, made = kinds[number % len(kinds)]
    return suffix, made()


def hundred(folder, rng):
    "A hundred image files of odd sizes and many kinds"
    small, large = 2 * rng.integers(20, 400, (85, 2)) + 1, 2 * rng.integers(450, 700, (15, 2)) + 1
    for number, (width, height) in enumerate([*small, *large]):
        suffix, content = picture(rng, number, width, height)
        file = folder / f"{number}.{suffix}"
        file.write_bytes(content)
        yield file


@needs_node
@pytest.mark.hard
def test_a_hundred_images_of_odd_sizes_get_the_probabilities_of_predict(page, tmp_path):
    files = list(hundred(tmp_path, np.random.default_rng(1)))
    told, expected = ask(page, files), predict_files(files)
    assert len(told) == len(expected) == 100 and not [row["error"] for row in told if "error" in row]
    levels = [np.abs(plane(t) - read_image(file, 224).ravel()).max() for file, t in zip(files, told)]
    away = [abs(t["probability"] - e["probability"]) for t, e in zip(told, expected)]
    print(f"levels {max(levels)}, probabilities {max(away):.1e}")
    assert max(levels) == 0 and max(away) < 1e-6  # 1e-3 was asked for
    assert all((t["decision"], t["known"]) == (e["decision"], e["in_domain"]) for t, e in zip(told, expected))
    assert all(abs(t["distance"] - e["distance"]) < 1e-3 for t, e in zip(told, expected))


@needs_node
@pytest.mark.hard
def test_a_large_jpeg_is_read_at_an_eighth(page, tmp_path):
    levels = np.add.outer(np.arange(3601), np.arange(3593)) // 29 % 256
    (tmp_path / "large.jpg").write_bytes(saved(Image.fromarray(levels.astype(np.uint8)), "JPEG", quality=80))
    [told] = ask(page, [tmp_path / "large.jpg"])
    assert (plane(told) == read_image(tmp_path / "large.jpg", 224).ravel()).all() and told["width"] == 3593


@needs_node
@pytest.mark.hard
def test_what_predict_refuses_is_refused(page, tmp_path):
    image = Image.fromarray(scene(np.random.default_rng(2), 120, 90))
    whole = {"png": saved(image, "PNG"), "jpg": saved(image, "JPEG")}
    whole["progressive.jpg"] = saved(image, "JPEG", progressive=True)
    bad = {"empty.png": b"", "text.png": b"no picture", "dicom.png": b"\0" * 128 + b"DICM"}
    bad |= {f"cut.{name}": content[: len(content) // 2] for name, content in whole.items()}
    bad |= {f"head.{name}": content[:20] for name, content in whole.items()}
    bad["small.png"] = saved(image.resize((31, 90)), "PNG")
    bad["large.png"] = whole["png"][:16] + struct.pack(">II", 9000, 9000) + whole["png"][24:]
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    files = [tmp_path / name for name in bad]
    for told, row in zip(ask(page, files), predict_files(files, skip_unreadable=True)):
        assert "error" in row and told.get("error") in ("kind", "dicom", "damaged", "small", "large"), (told, row)


@needs_node
@pytest.mark.hard
def test_the_heat_map_is_that_of_explain(page, tmp_path):
    (tmp_path / "a.png").write_bytes(saved(Image.fromarray(scene(np.random.default_rng(3), 301, 255)), "PNG"))
    [told] = ask(page, [tmp_path / "a.png"], heat=[tmp_path / "a.png"])
    expected = occlusion_map(OnnxModel(), read_image(tmp_path / "a.png", 224))
    assert np.abs(np.reshape(told["heat"], (224, 224)) - expected).max() < 1e-6


def test_a_page_needs_its_runtime_and_writes_over_nothing_else(tmp_path):
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (tmp_path / name).write_bytes(b"a stand-in")
    with pytest.raises(PneumopruneError, match="npm install onnxruntime-web"):
        write_page(None, tmp_path / "site", runtime=tmp_path / "nowhere")
    with pytest.raises(PneumopruneError, match="holds other files"):
        write_page(None, tmp_path, runtime=tmp_path)
    with pytest.raises(PneumopruneError, match="missing or no file"):
        write_page(tmp_path / "no.onnx", tmp_path / "site", runtime=tmp_path)
    assert not (tmp_path / "site").exists()
    written = write_page(None, tmp_path / "site", runtime=tmp_path)
    html = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    assert "<!-- card -->" not in html and "no medical device" in html
    found = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.*")}
    assert found == set(written.files)


def filled(template, values):
    "What a JavaScript template gives; `values` are those of its expressions, by their text"
    return re.sub(r"\$\{(.*?)\}", lambda expression: values[expression[1]], template)


def test_the_page_tells_a_prediction_in_the_words_of_predict():
    "Read from the text of words.js, so that it needs no Node; that the page says so is looked at in test_browser"
    english = (ROOT / "pneumoprune/web/words.js").read_text(encoding="utf-8").partition("\n  ru: {")[0]
    assert "const share = (number) => number.toFixed(3);" in english
    values = {"share(probability)": "0.123", "decision": "NORMAL", "share(threshold)": "0.568",
              "distance.toFixed(2)": "1.24"}  # fmt: skip
    row = {"file": "a.png", "probability": 0.1234, "decision": "NORMAL", "threshold": 0.5678, "distance": 1.239}
    for name, told in (("decided", row), ("refused", row | {"decision": None})):
        [template] = re.findall(rf"^    {name}: .*=>\s*`([^`]*)\.`,$", english, re.M)
        sentence = filled(template, values)
        assert f"a.png: {sentence[0].lower()}{sentence[1:]}" == format_predictions([told]).split("\n")[0]
