"""
Files that are none, and commands that can't be obeyed: what a typo, a broken disk, a foreign program or a stranger
hands to the command line. `materials` writes the files, `commands` lists what is to be refused.
"""

import json
import os
import shutil
import socket
import struct
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import torch
from PIL import Image
from safetensors.torch import save_file
from simulated import simulated_run

from pneumoprune.alexnet import narrow_alexnet
from pneumoprune.core import shown
from pneumoprune.networks import save_network

ESCAPE = "\x1b[31mred\x1b[0m"  # colours a terminal if it gets there


# ---------------------------------------------------------------------------------------------- images


def png(width: int, height: int, color: int = 0, bits: int = 8, data: bytes = b"") -> bytes:
    "A PNG that says it is so large"

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def encoded(kind: str, image: Image.Image | None = None) -> bytes:
    "A good image file"
    noise = np.random.default_rng(0).integers(0, 256, (70, 80), dtype=np.uint8)
    buffer = BytesIO()
    (image or Image.fromarray(noise)).save(buffer, kind)
    return buffer.getvalue()


def flipped(content: bytes, at: float) -> bytes:
    "One byte turned"
    changed = bytearray(content)
    changed[int(at * len(changed))] ^= 0xFF
    return bytes(changed)


def no_height(content: bytes) -> bytes:
    "A JPEG whose frame has no lines"
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + b"\0\0" + content[at + 2 :]


def dicom(**fields) -> bytes:
    "A minimal DICOM file"
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    made.Rows, made.Columns, made.SamplesPerPixel = 64, 64, 1
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 0
    made.PhotometricInterpretation, made.PixelData = "MONOCHROME2", bytes(64 * 64 * 2)
    for name, value in fields.items():
        setattr(made, name, value)
    buffer = BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def images() -> dict[str, bytes]:
    "Files that are no image, or none that can be read"
    good, photo = encoded("PNG"), encoded("JPEG")
    plain = dicom()
    found = {
        "empty.png": b"",
        "empty.jpg": b"",
        "empty.dcm": b"",
        "text.png": b"no image\n",
        "zeros.png": bytes(500),
        "zeros.jpeg": bytes(500),
        "page.jpg": b"<html><body>404 Not Found</body></html>",
        "drawing.png": b"<svg/>",
        "gif.png": encoded("GIF"),
        "bitmap.png": encoded("BMP"),
        "tiff.jpg": encoded("TIFF"),
        "webp.png": encoded("WEBP"),
        "pdf.png": b"%PDF-1.7\n",
        "zip.jpg": b"PK\x05\x06" + bytes(18),
        "pointer.png": b"version https://git-lfs.github.com\n",
        "no-width.png": png(0, 9),
        "no-height.png": png(9, 0),
        "nothing.png": png(0, 0),
        "no-height.jpg": no_height(photo),
        "bomb-grey.png": png(13300, 13300),
        "bomb-16.png": png(13300, 13300, bits=16),
        "bomb-rgba.png": png(9000, 9000, 6),
        "bomb-row.png": png(2**31 - 1, 1),
        "bomb-column.png": png(1, 10**8),
        "bomb-all.png": png(2**31 - 1, 2**31 - 1),
        "no-data.png": png(60, 60),
        "short-data.png": png(60, 60, data=bytes(100)),
        "bits.png": png(60, 60, bits=3),
        "colour.png": png(60, 60, color=5),
        "signature.png": good[:8],
        "header.png": good[:33],
        "photo-start.jpg": photo[:2],
        "preamble.dcm": bytes(128) + b"DICM",
        "no-mark.dcm": bytes(400),
        "no-pixels.dcm": dicom(PixelData=b""),
        "large.dcm": dicom(Rows=60000, Columns=60000),
        "frames.dcm": dicom(NumberOfFrames=10**6),
        "rows.dcm": dicom(Rows=0),
        "slope.dcm": dicom(RescaleSlope="nan", RescaleIntercept=0),
        "cut.dcm": plain[: len(plain) // 2],
        "bits.dcm": dicom(BitsAllocated=7),
        "window.dcm": dicom(WindowCenter="nan", WindowWidth="nan"),
    }
    found |= {f"cut-{share}.png": good[: len(good) * share // 100] for share in (20, 50, 90)}
    found |= {f"cut-{share}.jpg": photo[: len(photo) * share // 100] for share in (20, 50, 90)}
    found |= {f"flip-{share}.png": flipped(good, share / 100) for share in (0, 1, 30, 60)}
    return found


# ---------------------------------------------------------------------------------------------- networks in ONNX


ABOUT = {"classes": '["NORMAL", "PNEUMONIA"]', "threshold": "0.5", "size": "64"}
PROBABLE = "p = Div (y, a)"
LOOP = (
    "limit = Constant <value_int = 9223372036854775807> () go = Constant <value = bool {1}> () "
    "z = Loop (limit, go, y) <body = b (int64 i, bool on, float[n] s) => (bool on2, float[n] s2) "
    "{ on2 = Identity (on) s2 = Mul (s, a) }> p = Div (z, z)"
)


def answering(formula: str = PROBABLE, **about) -> bytes:
    "A file that computes `p` from `y`, the mean of each image in 0..255"
    text = (
        "(uint8[n, 1, 64, 64] images) => (float[n] p) "
        "<int64[3] axes = {1, 2, 3}, float a = {255.0}, float zero = {0.0}> "
        "{ x = Cast <to = 1> (images) y = ReduceMean <keepdims = 0> (x, axes) " + formula + " }"
    )
    return graph(text, **about)


def graph(text: str, **about) -> bytes:
    "An ONNX file of this graph that says about itself what ours say; an entry of None is left out"
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> g {text.replace("IMAGE", "n, 1, 64, 64")}'
    )
    onnx.helper.set_model_props(model, {key: value for key, value in (ABOUT | about).items() if value is not None})
    return model.SerializeToString()


def elsewhere() -> bytes:
    "A file whose weights are said to be in another file of the machine"
    model = onnx.load_from_string(answering())
    (weight,) = [w for w in model.graph.initializer if w.name == "a"]
    weight.ClearField("float_data")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../../../../../etc/passwd")
    return model.SerializeToString()


def models() -> dict[str, bytes]:
    "Files that are no network of ours"
    good = answering()
    about = {
        "no-classes": {"classes": None},
        "one-class": {"classes": '["NORMAL"]'},
        "same-classes": {"classes": '["A", "A"]'},
        "text-classes": {"classes": "AB"},
        "number-classes": {"classes": "[1, 2]"},
        "deep-classes": {"classes": "[" * 10**5},
        "no-threshold": {"threshold": None},
        "nan": {"threshold": "nan"},
        "seven": {"threshold": "7"},
        "minus": {"threshold": "-inf"},
        "words": {"threshold": "half"},
        "no-size": {"size": None},
        "size": {"size": "96"},
        "size-0": {"size": "0"},
        "size-minus": {"size": "-64"},
        "size-huge": {"size": "9" * 5000},
        "size-half": {"size": "6.5"},
    }
    found = {f"about-{name}.onnx": answering(**changes) for name, changes in about.items()}
    found |= {
        f"answer-{name}.onnx": answering(formula)
        for name, formula in {
            "51": "p = Identity (y)",
            "minus": "p = Neg (y)",
            "nan": "q = Div (zero, zero) p = Add (y, q)",
            "loop": LOOP,
            "inf": "q = Div (a, zero) p = Add (y, q)",
        }.items()
    }
    found |= {
        f"takes-{name}.onnx": graph(text)
        for name, text in {
            "floats": "(float[IMAGE] images) => (float[IMAGE] p) { p = Relu (images) }",
            "colour": "(uint8[n, 3, 64, 64] images) => (uint8[n, 3, 64, 64] p) { p = Identity (images) }",
            "two": "(uint8[IMAGE] images, uint8[IMAGE] more) => (uint8[IMAGE] p) { p = Add (images, more) }",
            "gives-images": "(uint8[IMAGE] images) => (float[IMAGE] p) { p = Cast <to = 1> (images) }",
        }.items()
    }
    found |= {
        "empty.onnx": b"",
        "text.onnx": b"no network\n",
        "zeros.onnx": bytes(500),
        "zip.onnx": b"PK\x05\x06" + bytes(18),
        "pointer.onnx": b"version https://git-lfs.github.com/spec/v1\n",
        "elsewhere.onnx": elsewhere(),
        "image.onnx": encoded("PNG"),
        "weights.safetensors": b"weights",
        "weights.pt": b"weights",
    }
    found |= {f"cut-{share}.onnx": good[: len(good) * share // 100] for share in (10, 50, 80)}
    found |= {f"flip-{share}.onnx": flipped(good, share / 100) for share in (0, 5)}
    return found


# ---------------------------------------------------------------------------------------------- checkpoints


class Runs:
    "A pickle that runs a command"

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def saved(content) -> bytes:
    "What torch.save writes"
    buffer = BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def header(description: dict | bytes, length: int | None = None) -> bytes:
    "A safetensors file with this header, and nothing behind it"
    text = description if isinstance(description, bytes) else json.dumps(description).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


def checkpoints(folder: Path) -> dict[str, bytes]:
    "Files that hold no weights of a network that can be made small"
    weights = {"0.weight": torch.ones(2, 2), "0.bias": torch.zeros(2)}
    good = saved(weights)
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    return {
        "empty.pt": b"",
        "text.pt": b"no weights\n",
        "zeros.pt": bytes(300),
        "cut.pt": good[: len(good) // 2],
        "pointer.pt": b"version https://git-lfs.github.com/spec/v1\n",
        "list.pt": saved([1, 2]),
        "number.pt": saved(7),
        "nothing.pt": saved({}),
        "words.pt": saved({"a": "b"}),
        "runs.pt": saved(Runs(folder / "RAN")),
        "network.pt": saved(torch.nn.Linear(2, 2)),
        "scalar.pt": saved({"0.weight": 3.0}),
        "other.pt": good,
        "none.pt": saved(None),
        "numbers.pt": saved({1: torch.ones(2)}),
        "image.pth": encoded("PNG"),
        "zip.pt": b"PK\x05\x06" + bytes(18),
        "version.pt": patched(good, version=99),
        "directory.pt": good.replace(b"PK\x01\x02", b"PK\x01\x07"),
        "empty.safetensors": b"",
        "short.safetensors": b"\x05\0\0",
        "text.safetensors": b"no weights\n",
        "long.safetensors": header({}, 2**60),
        "no-json.safetensors": header(b"{" * 50),
        "array.safetensors": header(b"[]"),
        "nothing.safetensors": header({}),
        "beyond.safetensors": header({"a": tensor}),
        "kind.safetensors": header({"a": tensor | {"dtype": "X9"}}),
        "deep.safetensors": header(b"[" * 10**5),
    }


# ---------------------------------------------------------------------------------------------- X-rays


def kaggle() -> dict[str, bytes]:
    "A small archive of noise in the Kaggle layout, whole"
    rng, found = np.random.default_rng(0), {}
    for split, count in (("train", 8), ("test", 3)):
        for kind in ("NORMAL", "PNEUMONIA"):
            for i in range(count):
                number = i + 100 * (split == "test")
                stem = f"IM-{number:04d}-0001" if kind == "NORMAL" else f"person{number}_virus_{number}"
                noise = Image.fromarray(rng.integers(0, 256, (70, 80), dtype=np.uint8))
                found[f"{split}/{kind}/{stem}.jpeg"] = encoded("JPEG", noise)
    return found


def zipped(files: dict[str, bytes]) -> bytes:
    "As a zip"
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def patched(content: bytes, *, flag: int = 0, packing: int = 0, version: int = 0, size: int = 0) -> bytes:
    "A zip whose headers say something else"
    changed = bytearray(content)
    for signature, at_version, flags, method, length in ((b"PK\x03\x04", 4, 6, 8, 22), (b"PK\x01\x02", 6, 8, 10, 24)):
        at = -1
        for _ in range(content.count(signature)):
            at = content.find(signature, at + 1)
            changed[at + flags] |= flag
            changed[at + method] = packing or changed[at + method]
            changed[at + at_version] = version or changed[at + at_version]
            if size:
                changed[at + length : at + length + 4] = struct.pack("<I", size)
    return bytes(changed)


def arrays(**changes) -> bytes:
    "A MedMNIST file; an array of None is left out"
    rng, found = np.random.default_rng(0), {}
    for split, count in (("train", 8), ("val", 4), ("test", 6)):
        found[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        found[f"{split}_labels"] = np.arange(count, dtype=np.uint8)[:, None] % 2
    buffer = BytesIO()
    np.savez(buffer, **{name: array for name, array in (found | changes).items() if array is not None})
    return buffer.getvalue()


def declared(shape: tuple, kind: str = "|u1", content: bytes = b"") -> bytes:
    "A MedMNIST file whose images are said to be of this shape"
    head, buffer = BytesIO(), BytesIO(arrays(train_images=None))
    np.lib.format.write_array_header_1_0(head, {"descr": kind, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images.npy", head.getvalue() + content)
    return buffer.getvalue()


def with_member(member: bytes) -> bytes:
    "A MedMNIST file whose images are these bytes"
    buffer = BytesIO(arrays(train_images=None))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("train_images.npy", member)
    return buffer.getvalue()


def sources() -> dict[str, bytes]:
    "Archives that hold no X-rays, or none that can be used"
    files = kaggle()
    good, small = zipped(files), arrays()
    one = {name: content for name, content in files.items() if "PNEUMONIA" not in name}
    no_test = {name: content for name, content in files.items() if "train" in name}
    first = next(iter(files))
    broken = {name: content[:50] for name, content in files.items()}
    return {
        "empty.zip": b"",
        "text.zip": b"no archive\n",
        "no-files.zip": zipped({}),
        "zeros.zip": bytes(500),
        "empty.npz": b"",
        "pointer.zip": b"version https://git-lfs.github.com/spec/v1\n",
        "image.zip": encoded("PNG"),
        "text.npz": b"text",
        "cut-10.zip": good[: len(good) // 10],
        "cut-90.zip": good[: len(good) * 9 // 10],
        "tail.zip": good[-200:],
        "encrypted.zip": patched(good, flag=1),
        "deflate64.zip": patched(good, packing=9),
        "method.zip": patched(good, packing=77),
        "version.zip": patched(good, version=99),
        "huge-entries.zip": patched(good, size=2**32 - 2),
        "one-class.zip": zipped(one),
        "no-test.zip": zipped(no_test),
        "no-splits.zip": zipped({"a/b.png": encoded("PNG")}),
        "third-class.zip": zipped(files | {"train/COVID/a.png": encoded("PNG")}),
        "texts.zip": zipped({"readme.txt": b"text"}),
        "climbs.zip": zipped({"../../train/NORMAL/a.jpeg": b""}),
        "absolute.zip": zipped({"/train/NORMAL/a.jpeg": b""}),
        "drive.zip": zipped({"C:/train/NORMAL/a.jpeg": b""}),
        "archives.zip": zipped({"train/NORMAL/a.zip": good}),
        "broken-image.zip": zipped(files | {first: files[first][:80]}),
        "broken-images.zip": zipped(broken),
        "empty-image.zip": zipped(files | {first: b""}),
        "bomb-image.zip": zipped(files | {first: png(13300, 13300)}),
        "flat-image.zip": zipped(files | {first: png(0, 0)}),
        "flipped.zip": flipped(good, 0.5),
        "escape.zip": zipped({f"{ESCAPE}.txt": b""}),
        "escape-image.zip": zipped(files | {f"train/NORMAL/{ESCAPE}.png": b""}),
        "lines-image.zip": zipped(files | {"train/NORMAL/two\nlines.png": b"text"}),
        "cut.npz": small[: len(small) // 2],
        "no-arrays.npz": zipped({"x.npy": b""}),
        "member.npz": with_member(b"text"),
        "no-member.npz": with_member(b""),
        "open-header.npz": with_member(b"\x93NUMPY\x01\x00\x10\x00{'descr': '|u1',("),
        "npy-version.npz": with_member(b"\x93NUMPY\x09\x00"),
        "no-images.npz": arrays(train_images=None),
        "no-labels.npz": arrays(test_labels=None),
        "floats.npz": arrays(train_images=np.zeros((8, 28, 28))),
        "flat.npz": arrays(train_images=np.zeros(8, np.uint8)),
        "objects.npz": arrays(train_images=np.array([None] * 8, dtype=object)),
        "few.npz": arrays(train_labels=np.zeros(3, np.uint8)),
        "labels.npz": arrays(train_labels=np.arange(8)),
        "words.npz": arrays(train_labels=np.array(["a"] * 8)),
        "no-pixels.npz": arrays(train_images=np.zeros((8, 0, 0), np.uint8)),
        "channels.npz": arrays(train_images=np.zeros((8, 9, 9, 7), np.uint8)),
        "declared.npz": declared((10**12, 28, 28)),
        "negative.npz": declared((-8, 28, 28)),
        "wide.npz": declared((1, 10**6, 10**6)),
        "large.npz": declared((1, 9000, 9000), content=bytes(9000 * 9000)),
        "encrypted.npz": patched(small, flag=1),
        "method.npz": patched(small, packing=77),
        "version.npz": patched(small, version=99),
        "one-class.npz": arrays(train_labels=np.zeros(8, np.uint8), test_labels=np.zeros(6, np.uint8)),
    }


# ---------------------------------------------------------------------------------------------- run folders


DAMAGES: dict[str, dict[str, bytes | None]] = {
    "run.json": {
        "gone": None,
        "empty": b"",
        "list": b"[]",
        "null": b"null",
        "object": b"{}",
        "bytes": b"\xff\xfe\0",
        "deep": b"[" * 100000,
        "long": b'{"a":' + b"9" * 5000 + b"}",
        "cut": b'{"settings": {"size"',
        "text": b"text",
    },
    "summary.json": {
        "gone": None,
        "empty": b"",
        "object": b"{}",
        "list": b"[]",
        "bytes": b"\xff",
        "models": b'{"models": 3}',
        "no-models": b'{"models": {}}',
    },
    "history.csv": {
        "gone": None,
        "empty": b"",
        "bytes": b"\xff\xfe\0",
        "ragged": b"a,b\n1,2,3\n",
        "quote": b'a,"b\n',
        "other": b"a,b\n1,2\n",
        "text": b"model,epoch,val_accuracy\noriginal,one,much\n",
    },
    "predictions.csv": {
        "gone": None,
        "empty": b"",
        "bytes": b"\xff\xfe\0",
        "other": b"a,b\n1,2\n",
        "zeros": bytes(400),
        "header": b"split,name,patient,label,original\n",
        "words": b"split,name,patient,label,original\ntest,a,b,0,much\n",
        "range": b"split,name,patient,label,original\ntest,a,b,0,7\ntest,c,d,1,9\nval,e,f,0,7\nval,g,h,1,8\n",
        "labels": b"split,name,patient,label,original\ntest,a,b,5,0.5\nval,c,d,9,0.5\n",
    },
    "latency.csv": {"gone": None, "empty": b"", "other": b"a\n1\n"},
    "rounds.csv": {"empty": b"", "bytes": b"\xff\xfe\0"},
    "pruning.csv": {"empty": b""},
    "compaction.csv": {"empty": b""},
    "sensitivity.csv": {"empty": b""},
    "amounts.csv": {"empty": b""},
    "inference.csv": {"empty": b""},
}


# ---------------------------------------------------------------------------------------------- all of it in one folder


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _strange(folder: Path) -> None:
    "What is in a folder and is no file, or has a name of its own"
    folder.mkdir()
    (folder / "folder.png").mkdir()
    (folder / "folder.onnx").mkdir()
    (folder / "empty").mkdir()
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.onnx")
    os.mkfifo(folder / "pipe.pt")
    os.mkfifo(folder / "pipe.zip")
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(folder)  # the name of a socket must be short
        one.bind("socket.png")
        os.chdir(here)
    for name in (
        f"{ESCAPE}.png",
        "two\nlines.png",
        "снимок.png",
        "<b>bold.png",
        "[1].png",
        b"bytes-\xff.png".decode("utf-8", "surrogateescape"),
    ):
        (folder / name).write_bytes(b"no image")
    (folder / "mine.png").write_bytes(encoded("PNG"))
    (folder / "mine.onnx").write_bytes(answering())
    (folder / "mine.zip").write_bytes(zipped(kaggle()))
    (folder / "mine.pt").write_bytes(saved({"0.weight": torch.ones(2, 2)}))
    for name in ("mine.png", "mine.onnx", "mine.zip", "mine.pt"):
        (folder / name).chmod(0)


def materials(folder: Path) -> Path:
    "Write everything that the commands below are given"
    _write(folder / "images", images())
    _write(folder / "models", models())
    _write(folder / "checkpoints", checkpoints(folder))
    _write(folder / "sources", sources())
    _strange(folder / "strange")
    good = {"x.png": encoded("PNG"), "good.onnx": answering(), "text.txt": b"text"}
    _write(folder / "good", good)
    save_network(narrow_alexnet((8,) * 5, (16, 16), seed=0), folder / "good/network.safetensors")
    save_network(
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4, 2)),
        folder / "good/colour.safetensors",
    )
    save_file({"0.weight": torch.ones(2, 2), "0.bias": torch.zeros(2)}, folder / "good/linear.safetensors")
    torch.save({"0.weight": torch.ones(2, 2), "0.bias": torch.tensor([float("nan"), 0])}, folder / "good/nan.pt")
    torch.save(torch.ones(2, 9), folder / "good/inputs.pt")
    (folder / "good/factory.py").write_text(
        "import torch\nlinear = lambda: torch.nn.Sequential(torch.nn.Linear(2, 2))\nnumber = 7\n"
        "def fails(): raise RuntimeError('no')\ndef wants(x): return x\n",
        encoding="utf-8",
    )
    (folder / "good/kaggle.zip").write_bytes(zipped(kaggle()))
    run = folder / "runs/whole"
    simulated_run(1, folder=run)
    for file, damages in DAMAGES.items():
        for name, content in damages.items():
            damaged = shutil.copytree(run, folder / f"runs/{file}-{name}")
            (damaged / file).unlink() if content is None else (damaged / file).write_bytes(content)
    (folder / "runs/none").mkdir()
    (folder / "runs/file").write_bytes(b"text")
    (folder / "runs/other").mkdir()
    (folder / "runs/other/notes.txt").write_bytes(b"my own")
    return folder


# ---------------------------------------------------------------------------------------------- commands


class Case:
    "A command line, and words that its one line of refusal must hold"

    def __init__(self, *arguments: str, told: tuple[str, ...] = ()):
        self.arguments, self.told = arguments, told

    def __repr__(self) -> str:
        return " ".join(self.arguments).encode("unicode_escape").decode()


def _shown(name: str) -> str:
    "A name as it may be printed"
    return shown(Path(name).name.partition("\n")[0])


def commands(folder: Path) -> dict[str, list[Case]]:
    "Commands that must be refused, by the command, relative to a working folder that is empty"
    good = lambda name: str(folder / "good" / name)
    each = lambda kind: [str(path) for path in sorted((folder / kind).iterdir())]
    strange = [path for path in each("strange") if not path.endswith(("mine.png", "mine.onnx", "mine.zip", "mine.pt"))]
    mine = lambda suffix: str(folder / f"strange/mine.{suffix}")
    image, model = good("x.png"), good("good.onnx")
    a_file, a_folder, no_place = good("text.txt"), str(folder / "strange/empty"), good("text.txt/new")
    heat = ("-o", "heat.png")
    predict = [
        *(
            Case("predict", path, told=(_shown(path)[:10],))
            for path in each("images") + strange
            if not path.endswith("pipe.zip")
        ),
        *(Case("predict", image, "--model", path, told=(_shown(path),)) for path in each("models")),
        Case("predict", mine("png"), told=("mine.png",)),
        Case("predict", image, "--model", mine("onnx"), told=("mine.onnx",)),
        Case("predict", "missing.png", told=("missing.png",)),
        Case("predict", good("kaggle.zip"), told=("unpack it",)),
        Case("predict", "*.png", told=("*.png",)),
        Case("predict", ""),
        Case("predict", "[", told=("[",)),
        Case("predict", "a" * 300, told=("aaa",)),
        Case("predict", "/dev/null", told=("/dev/null",)),
        Case("predict", "/dev/zero", told=("/dev/zero",)),
        Case("predict", "~/missing.png"),
        Case("predict", "-", told=("-",)),
        Case("predict", f"{image}/x", told=("x.png",)),
        Case("predict", f"{ESCAPE}.png"),
        Case("predict", "two\nlines.png"),
        Case("predict", image, "--model", "missing.onnx", told=("missing.onnx",)),
        Case("predict", image, "--model", ""),
        Case("predict", image, "--model", str(folder / "strange/folder.onnx"), told=("folder.onnx",)),
        Case("predict", image, "--model", str(folder / "strange/pipe.onnx"), told=("pipe.onnx",)),
        Case("predict", image, "--model", "/dev/zero"),
        Case("predict", image, "--model", f"{ESCAPE}.onnx"),
        *(
            Case("predict", image, "--max-pixels", value, told=("max-pixels",))
            for value in ("0", "-1", "much", "1.5", "nan", "")
        ),
        Case("predict", image, "--max-pixels", "10", told=("x.png", "pixels")),
        Case("predict", told=("IMAGES",)),
        Case("predict", image, "--nothing", told=("--nothing",)),
        Case("predict", image, "--model", told=("--model",)),
        Case("predict", str(folder / "images"), "--skip-unreadable", "--max-pixels", "1"),
    ]
    explain = [
        *(Case("explain", "--force", path, *heat, told=(_shown(path)[:10],)) for path in each("images")[::2] + strange),
        *(Case("explain", "--force", image, *heat, "--model", path, told=(_shown(path),)) for path in each("models")),
        Case("explain", "--force", image, "-o", a_folder, told=("empty",)),
        Case("explain", "--force", *heat, told=("IMAGE",)),
        Case("explain", "--force", image, "-o", no_place, told=("text.txt",)),
        Case("explain", "--force", image, "-o", "heat.nothing", told=("heat.nothing",)),
        Case("explain", "--force", image, "-o", "heat"),
        Case("explain", "--force", image, "-o", ""),
        Case("explain", "--force", image, "-o", "b" * 300 + ".png"),
        Case("explain", "--force", image, "-o", image, told=("x.png",)),
        Case("explain", "--force", image, "-o", "/proc/heat.png", told=("heat.png",)),
        Case("explain", "--force", image, *heat, "--model", good("colour.safetensors"), told=("colour.safetensors",)),
        Case("explain", "--force", image, *heat, "--model", good("linear.safetensors"), told=("linear.safetensors",)),
        *(
            Case("explain", "--force", image, *heat, "--model", path, told=(_shown(path),))
            for path in each("checkpoints")
            if path.endswith(".safetensors")
        ),
    ]
    out = ("-o", "small.safetensors")
    factory, weights = ("--arch", "factory:linear"), good("linear.safetensors")
    compact = [
        *(Case("compact", path, *out, told=(_shown(path),)) for path in each("checkpoints")),
        *(
            Case("compact", weights, *out, "--arch", arch)
            for arch in (
                "nothing",
                "",
                ":",
                "a:",
                ":b",
                "os:system",
                "os:nothing",
                "no.such:thing",
                "timm:",
                "timm:nothing",
                "a:b:c",
                "../x:y",
                "factory:nothing",
                "factory:number",
                "factory:fails",
                "factory:wants",
                "resnet18",
                "alexnet",
                "ALEXNET",
                "resnet 50",
                "fasterrcnn_resnet50_fpn",
                "raft_small",
                "x" * 500,
                "__import__('os'):system",
                "get_model",
                ESCAPE,
            )
        ),
        Case("compact", weights, told=("--output",)),
        Case("compact", *out, told=("MODEL",)),
        Case("compact", "missing.pt", *out, told=("missing.pt",)),
        Case("compact", a_folder, *out, told=("empty",)),
        Case("compact", mine("pt"), *out, told=("mine.pt",)),
        Case("compact", "", *out),
        Case("compact", str(folder / "strange/pipe.pt"), *out, told=("pipe.pt",)),
        Case("compact", "/dev/zero", *out, told=("/dev/zero",)),
        Case("compact", good("nan.pt"), *out, *factory, told=("NaN",)),
        Case("compact", weights, "-o", "small.pt", *factory, told=("small.pt",)),
        Case("compact", weights, "-o", a_folder, *factory),
        Case("compact", weights, "-o", weights, *factory, told=("linear.safetensors",)),
        Case("compact", weights, "-o", "", *factory),
        Case("compact", weights, "-o", no_place + ".safetensors", *factory, told=("text.txt",)),
        Case("compact", weights, "-o", "/proc/small.safetensors", *factory, told=("small.safetensors",)),
        *(
            Case("compact", weights, *out, "--size", size, *factory, told=("size",))
            for size in ("0", "-1", "much", "1.5", "nan", "1000000", "99999999999999")
        ),
        *(
            Case("compact", weights, *out, *factory, "--inputs", path)
            for path in (
                "missing.pt",
                a_folder,
                a_file,
                image,
                good("nan.pt"),
                weights,
                "/dev/zero",
                *(p for p in each("checkpoints") if p.endswith(".pt")),
            )
        ),
        Case("compact", weights, *out, *factory, "--inputs", good("inputs.pt"), told=("inputs",)),
        Case("compact", weights, *out, *factory, "--onnx", "small.txt", told=("small.txt",)),
        Case("compact", weights, *out, *factory, "--onnx", a_folder),
        Case("compact", weights, *out, *factory, "--onnx", no_place + ".onnx", told=("text.txt",)),
        Case("compact", weights, *out, *factory, "--nothing"),
    ]
    no_images = (  # where images are asked for, and what the message names
        ("missing.zip", "missing.zip"),
        (a_folder, "empty"),
        (a_file, "text.txt"),
        (image, "x.png"),
        (str(folder / "strange/pipe.zip"), "pipe.zip"),
        ("/dev/zero", "/dev/zero"),
    )
    quick = ("--quick", "--size", "64", "--epochs", "1", "--out", "run")
    lab = [
        *(Case("lab", *quick, "--data", path, told=(_shown(path)[:10],)) for path in each("sources")),
        *(
            Case("lab", *quick, "--skip-unreadable", "--data", str(folder / f"sources/{name}"), told=(name,))
            for name in (
                "empty.zip",
                "broken-images.zip",
                "encrypted.zip",
                "method.zip",
                "version.zip",
                "declared.npz",
                "one-class.zip",
                "climbs.zip",
            )
        ),
        *(
            Case("lab", *quick, "--data", path, told=(word,))
            for path, word in (
                *no_images,
                ("/dev/null", "/dev/null"),
                (model, "good.onnx"),
                ("", ""),
                ("c" * 300, "ccc"),
                (f"{image}/x", "x.png"),
                (str(folder / "strange/gone.png"), "gone.png"),
                (str(folder / "strange/loop.png"), "loop.png"),
                (f"{ESCAPE}.zip", ".zip"),
            )
        ),
        Case("lab", *quick, "--data", mine("zip"), told=("mine.zip",)),
        *(
            Case("lab", "--quick", "--out", "run", f"--{name}", value, told=(name,))
            for name, values in {
                "size": ("0", "-1", "32", "62", "5000", "100000", "much", "64.5", "nan", ""),
                "epochs": ("0", "-1", "much", "1.5", ""),
                "seed": ("-1", "4294967296", "much", "1.5"),
                "limit": ("0", "-1", "3", "39", "much"),
                "device": ("tpu", "", "CUDA"),
                "max-file-mb": ("0", "-1", "nan", "inf", "much", ""),
                "max-macs": ("0", "-5", "nan", "inf", "-inf"),
                "min-speedup": ("0", "-1", "nan", "inf", "1e999"),
            }.items()
            for value in values
        ),
        *(
            Case("lab", "--quick", "--size", "64", "--out", path, told=(word,))
            for path, word in (
                (a_file, "text.txt"),
                (no_place, "text.txt"),
                (str(folder / "runs/other"), "other"),
                ("/proc/run", "run"),
                ("d" * 300, "ddd"),
                (str(folder / "runs/whole"), "another run"),
            )
        ),
        Case("lab", "--nothing", told=("--nothing",)),
        Case("lab", "more", told=("more",)),
        Case("lab", "--quick", "--out", told=("--out",)),
        Case("lab", "--no-resume", "--out", str(folder / "runs/whole"), told=("whole",)),
    ]
    damaged = [path for path in each("runs") if not path.endswith("whole")]
    folders = [
        *(Case("check", path, told=(_shown(path).split("-")[0],)) for path in damaged),
        *(
            Case(name, path, told=(word,))
            for name in ("check", "report")
            for path, word in (
                ("missing", "missing"),
                (a_file, "text.txt"),
                (image, "x.png"),
                ("", ""),
                (f"{ESCAPE}", "red"),
                ("/dev/null", "null"),
                ("e" * 300, "eee"),
            )
        ),
        *(Case("report", path) for path in damaged if "run.json" in path or path.endswith(("none", "file", "other"))),
        Case("report", str(folder / "runs/whole"), "-o", "report.txt", told=("report.txt",)),
        Case("report", told=("RUN",)),
        Case("check", told=("RUN",)),
        Case("report", str(folder / "runs/whole"), "-o", a_folder, told=("empty",)),
        Case("report", str(folder / "runs/whole"), "--lang", "de", told=("lang",)),
        Case("report", str(folder / "runs/whole"), "-o", no_place + ".pdf", told=("text.txt",)),
        Case("nothing", told=("nothing",)),
        Case("--nothing", told=("--nothing",)),
        Case("lab lab"),
        Case(""),
        Case(f"{ESCAPE}"),
    ]
    zipped_good, onnx_good = good("kaggle.zip"), ("--model", model)
    evaluate = [
        *(Case("evaluate", path, *onnx_good, told=(_shown(path)[:10],)) for path in each("sources")),
        *(
            Case("evaluate", zipped_good, "--model", path, told=(_shown(path),))
            for path in each("models")
            if not path.endswith("loop.onnx")  # ten seconds for each image
        ),
        *(
            Case("evaluate", path, told=(word,))
            for path, word in (
                *no_images,
                ("", ""),
                ("f" * 300, "fff"),
                (f"{ESCAPE}.zip", ".zip"),
                (model, "good.onnx"),
                (mine("zip"), "mine.zip"),
            )
        ),
        *(
            Case("evaluate", zipped_good, *onnx_good, option, value, told=(word,))
            for option, value, word in (
                ("--table", "missing.csv", "missing.csv"),
                ("--table", a_file, "text.txt"),
                ("--table", a_folder, "empty"),
                ("--table", "", ""),
                ("--table", "/dev/zero", "/dev/zero"),
                ("--table", str(folder / "strange/pipe.zip"), "pipe.zip"),
                ("--table", image, "x.png"),
                ("--table", f"{ESCAPE}.csv", ".csv"),
                ("--column", "nothing", "nothing"),
                ("--column", "label", "label"),
                ("--column", "label=finding", "finding"),
                ("--column", "colour=x", "colour"),
                ("--column", "=", "="),
                ("--column", "", ""),
                ("--by", "view", "view"),
                ("--by", "", ""),
                ("--by", "age:", "age"),
                ("--by", "age:x,y", "age"),
                ("--by", "age:65,18", "age"),
                ("--by", "age:nan", "age"),
                ("--by", ":18", "column"),
                ("--by", ESCAPE, "red"),
                ("--split", "nothing", "nothing"),
                ("--split", ESCAPE, "red"),
                ("--split", "", "split"),
                ("--out", a_file, "text.txt"),
                ("--out", no_place, "text.txt"),
                ("--out", "/proc/there", "there"),
                ("--out", "g" * 300, "ggg"),
                ("--max-pixels", "0", "max-pixels"),
                ("--max-pixels", "1", "pixels"),
                ("--nothing", "1", "--nothing"),
            )
        ),
        *(
            Case("evaluate", zipped_good, "--model", path, told=(word,))
            for path, word in (
                ("missing.onnx", "missing.onnx"),
                ("", ""),
                (a_folder, "empty"),
                (str(folder / "runs/none"), "none"),
                (str(folder / "runs/whole"), "whole"),
                ("/dev/zero", "/dev/zero"),
                (mine("onnx"), "mine.onnx"),
                (good("network.safetensors"), "network.safetensors"),
            )
        ),
        Case("evaluate", told=("DATA",)),
        Case("evaluate", zipped_good, zipped_good, *onnx_good, told=("kaggle.zip",)),
    ]
    lab += [
        *(
            Case("lab", *quick, option, value, told=(word,))
            for option, value, word in (
                ("--external", "missing.zip", "missing.zip"),
                ("--external", a_file, "text.txt"),
                ("--external", a_folder, "empty"),
                ("--external", "", ""),
                ("--external", "/dev/zero", "/dev/zero"),
                ("--external", str(folder / "strange/pipe.zip"), "pipe.zip"),
                ("--seeds", "0", "seeds"),
                ("--seeds", "101", "seeds"),
                ("--seeds", "1.5", "seeds"),
                ("--jobs", "0", "jobs"),
                ("--jobs", "many", "jobs"),
                ("--only-seed", "-1", "only-seed"),
                ("--only-seed", "1", "seeds"),
                ("--column", "nothing", "nothing"),
                ("--column", "label=finding", "--data"),
                ("--table", "t.csv", "--data"),
                ("--external-column", "colour=x", "colour"),
                ("--external-column", "label=finding", "--external"),
                ("--external-table", "t.csv", "--external"),
            )
        ),
        Case("lab", *quick, "--data", zipped_good, "--table", "missing.csv", told=("missing.csv",)),
        Case("lab", *quick, "--data", zipped_good, "--table", a_file, told=("text.txt",)),
        Case("lab", *quick, "--data", zipped_good, "--aspects", "missing.csv", told=("missing.csv",)),
        Case("lab", *quick, "--data", zipped_good, "--aspects", a_file, told=("text.txt",)),
        Case("lab", *quick, "--data", zipped_good, "--aspects", "/dev/zero", told=("/dev/zero",)),
    ]
    page = [
        *(
            Case("page", *arguments)  # without ONNX Runtime Web, that is what it names
            for arguments in (
                ("missing.onnx",),
                (a_folder,),
                (a_file,),
                ("",),
                ("/dev/zero",),
                (str(folder / "runs/none"),),
                (model, "-o", a_file),
                (model, "-o", no_place),
                (model, "-o", str(folder / "runs/other")),
                (model, "--runtime", "missing"),
                (model, "--runtime", a_folder),
                (model, "--nothing"),
            )
        ),
    ]
    return {"predict": predict, "explain": explain, "compact": compact, "lab": lab, "folders": folders,
            "evaluate": evaluate, "page": page}  # fmt: skip
