"""Loading X-rays: odd archives, faults, caches, downloads, and the real archive where it is at hand."""
import hashlib
import http.server
import os
import struct
import sys
import threading
import time
import types
import zipfile
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pneumoprune import data
from pneumoprune.data import (
    CLASSES,
    DOWNLOADS,
    DataError,
    XRays,
    dataset_table,
    download,
    find_duplicates,
    load_xrays,
    merge_patients,
    participant_flow,
    patient_of,
    show_samples,
    split_validation,
)
from pneumoprune.synthetic import SHIFTS, phantoms, shift_suite, shifted

REAL = Path(__file__).parents[2] / "shared/data/chest_xray.zip"
SIZE = 64


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PNEUMOPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TQDM_DISABLE", "1")


def image_of(seed: int, mode: str = "L", size: int = SIZE) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def kaggle(root: str = "", val: int = 0) -> dict[str, bytes]:
    """A small archive in the layout of the real one: path -> bytes"""
    files = {}
    plan = [("train", 6), ("test", 3)] + ([("val", val)] if val else [])
    for split, count in plan:
        for i in range(count):
            tag = {"train": 100, "val": 200, "test": 300}[split] + i
            files[f"{root}{split}/NORMAL/IM-{tag:04d}-0001.jpeg"] = encoded(image_of(tag), "JPEG")
            files[f"{root}{split}/PNEUMONIA/person{tag}_virus_{i}.jpeg"] = encoded(image_of(1000 + tag), "JPEG")
    return files


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def unpacked(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return folder


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize("pack", [zipped, unpacked])
@pytest.mark.parametrize("root", ["", "chest_xray/", "a/b/chest_xray/"])
def test_plain_layout(tmp_path, pack, root):
    xrays = load_xrays(pack(tmp_path / "source", kaggle(root)), SIZE)
    assert xrays.images.shape == (18, 1, SIZE, SIZE) and xrays.images.dtype == np.uint8
    assert xrays.labels.dtype == np.int64 and xrays.labels.sum() == 9
    assert (xrays.split == "train").sum() == 12 and (xrays.split == "test").sum() == 6
    assert f"{root}train/NORMAL/IM-0100-0001.jpeg" in xrays.names
    assert {"IM-0100", "person100_virus"} <= set(xrays.patients)
    assert xrays.source == "source" and not xrays.synthetic and xrays.notes == () == xrays.unreadable


def test_folder_and_zip_give_the_same(tmp_path):
    a = load_xrays(zipped(tmp_path / "a.zip", kaggle()), SIZE)
    b = load_xrays(unpacked(tmp_path / "b", kaggle()), SIZE)
    assert (a.images == b.images).all() and (a.names == b.names).all() and (a.labels == b.labels).all()
    assert a.fingerprint == hashlib.sha256((tmp_path / "a.zip").read_bytes()).hexdigest()
    moved = load_xrays(unpacked(tmp_path / "elsewhere/b", kaggle()), SIZE)
    assert moved.fingerprint == b.fingerprint, "the fingerprint of a folder is its content, not its place"


@pytest.mark.parametrize("pack", [zipped, unpacked])
def test_everything_the_real_archive_is_known_for(tmp_path, pack):
    files = kaggle("chest_xray/", val=4)
    nested = {name.replace("chest_xray/", "chest_xray/chest_xray/"): content for name, content in files.items()}
    debris = {
        "__MACOSX/chest_xray/train/NORMAL/._IM-0100-0001.jpeg": b"fork",
        "chest_xray/__MACOSX/chest_xray/test/PNEUMONIA/._person300_virus_0.jpeg": b"fork",
        "chest_xray/train/NORMAL/._IM-0101-0001.jpeg": b"fork",
        "chest_xray/train/.DS_Store": b"finder",
        "chest_xray/.DS_Store": b"finder",
    }
    xrays = load_xrays(pack(tmp_path / "source", files | nested | debris), SIZE)
    assert len(xrays) == len(files) == 26
    assert (xrays.split == "train").sum() == 12 + 8 and not (xrays.split == "val").any()
    assert not any("chest_xray/chest_xray" in name for name in xrays.names)
    assert "merged into train: the val folder of 8 images" in " ".join(xrays.notes)
    assert "left out: 26 images of a nested second copy" in " ".join(xrays.notes)


def test_only_the_nested_copy_is_there(tmp_path):
    xrays = load_xrays(zipped(tmp_path / "s.zip", kaggle("chest_xray/chest_xray/")), SIZE)
    assert len(xrays) == 18 and xrays.notes == ()


def test_a_large_validation_folder_is_kept(tmp_path):
    xrays = load_xrays(zipped(tmp_path / "s.zip", kaggle(val=50)), SIZE)
    assert (xrays.split == "val").sum() == 100 and len(xrays.part("val")) == 100


def test_case_of_names_does_not_matter(tmp_path):
    files = {}
    for i, (name, content) in enumerate(kaggle().items()):
        split, kind, file = name.split("/")
        change = [str.upper, str.lower, str.capitalize][i % 3]
        files[f"{change(split)}/{change(kind)}/{file.replace('.jpeg', ['.JPG', '.Jpeg', '.JPEG'][i % 3])}"] = content
    xrays = load_xrays(zipped(tmp_path / "s.zip", files), SIZE)
    assert len(xrays) == 18 and xrays.labels.sum() == 9


def test_backslashes_of_windows_archives(tmp_path):
    files = {name.replace("/", "\\"): content for name, content in kaggle("chest_xray/").items()}
    assert len(load_xrays(zipped(tmp_path / "s.zip", files), SIZE)) == 18


def test_links_to_folders_are_followed_once(tmp_path):
    real = unpacked(tmp_path / "real", kaggle())
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "train").symlink_to(real / "train")
    (linked / "test").symlink_to(real / "test")
    (linked / "test" / "NORMAL" / "loop").symlink_to(linked)
    (linked / "test" / "broken.jpeg").symlink_to(tmp_path / "nowhere")
    assert len(load_xrays(linked, SIZE)) == 18


def test_other_files_are_left_out_and_said(tmp_path):
    files = kaggle() | {"train/NORMAL/notes.txt": b"x", "readme.pdf": b"x", "poster.png": encoded(image_of(1))}
    notes = " ".join(load_xrays(zipped(tmp_path / "s.zip", files), SIZE).notes)
    assert "2 files, neither JPEG nor PNG" in notes and "1 image outside of train" in notes


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "I;16", "CMYK"])
def test_modes(tmp_path, mode):
    gray = np.tile(np.repeat([0, 255], SIZE // 2).astype(np.uint8), (SIZE, 1))
    if mode == "I;16":
        image = Image.fromarray(gray.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(gray).convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    files = kaggle() | {"train/NORMAL/extra.png": encoded(image, kind)}
    xrays = load_xrays(zipped(tmp_path / "s.zip", files), SIZE)
    loaded = xrays.images[xrays.names == "train/NORMAL/extra.png"][0, 0]
    assert np.abs(loaded.astype(int) - gray).max() <= (12 if mode == "CMYK" else 0)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_sixteen_bit_files_keep_their_greys(tmp_path, bits):
    ramp = np.tile(np.linspace(0, 2**bits - 1, 256).astype(np.uint16), (256, 1))
    files = kaggle() | {"train/NORMAL/extra.png": encoded(Image.fromarray(ramp))}
    xrays = load_xrays(zipped(tmp_path / "s.zip", files), 256)
    loaded = xrays.images[xrays.names == "train/NORMAL/extra.png"][0, 0]
    assert (np.diff(loaded[0].astype(int)) >= 0).all() and len(np.unique(loaded)) > 250


def test_large_images_are_averaged_not_sampled(tmp_path):
    # half of the fine rows are white: any antialiased reduction is even grey
    stripes = Image.fromarray(np.tile(np.array([[0], [255]], np.uint8), (400, 1200)))
    files = kaggle() | {"train/NORMAL/a.png": encoded(stripes), "train/NORMAL/b.jpeg": encoded(stripes, "JPEG")}
    xrays = load_xrays(zipped(tmp_path / "s.zip", files), SIZE)
    for name in ("train/NORMAL/a.png", "train/NORMAL/b.jpeg"):
        loaded = xrays.images[xrays.names == name].astype(int)
        assert abs(loaded.mean() - 127.5) < 4 and np.ptp(loaded) < 12


@pytest.mark.parametrize("size", [63, 96, 224])
def test_size(tmp_path, size):
    xrays = load_xrays(zipped(tmp_path / "s.zip", kaggle()), size)
    assert xrays.size == size and xrays.images.shape[2:] == (size, size)


# ---------------------------------------------------------------- faults


def broken_archive(tmp_path: Path) -> Path:
    whole = encoded(image_of(7), "JPEG")
    return zipped(tmp_path / "s.zip", kaggle() | {
        "train/NORMAL/truncated.jpeg": whole[: len(whole) // 2],
        "train/NORMAL/empty.png": b"",
        "train/PNEUMONIA/text.jpeg": b"this is no image",
        "test/NORMAL/gif.png": encoded(image_of(8, "P"), "GIF"),
    })


def test_all_unreadable_images_are_listed(tmp_path):
    path = broken_archive(tmp_path)
    for _ in range(2):  # the second time from the cache
        with pytest.raises(DataError) as caught:
            load_xrays(path, SIZE)
        message = str(caught.value)
        for name in ("truncated.jpeg", "empty.png", "text.jpeg", "gif.png"):
            assert message.count(name) == 1
        assert "4 images in s.zip" in message and "--skip-unreadable" in message
        assert "0x" not in message, "addresses of objects say nothing"


def test_skip_unreadable_goes_on_and_records(tmp_path):
    path = broken_archive(tmp_path)
    for _ in range(2):
        xrays = load_xrays(path, SIZE, skip_unreadable=True)
        assert len(xrays) == 18 and len(xrays.unreadable) == 4
        assert "train/NORMAL/truncated.jpeg" in xrays.unreadable
    assert participant_flow(xrays)["images"].tolist()[:4] == [22, 4, 0, 18]
    plain = load_xrays(zipped(tmp_path / "plain.zip", kaggle()), SIZE)
    assert (xrays.images == plain.images).all() and (xrays.names == plain.names).all()


def test_damaged_bytes_inside_a_zip_are_found(tmp_path):
    path = zipped(tmp_path / "s.zip", kaggle())
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[3]
    content[info.header_offset + 200] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="1 image in s.zip can't be read") as caught:
        load_xrays(path, SIZE)
    assert info.filename in str(caught.value)


def patched(path: Path, flag: int = 0, packing: int = 0, entries: int = 10**6) -> Path:
    "The zip with a flag set, or a packing named, in the headers of its first entries"
    content = bytearray(path.read_bytes())
    for signature, flags, method in ((b"PK\x03\x04", 6, 8), (b"PK\x01\x02", 8, 10)):
        at = -1
        for _ in range(min(entries, content.count(signature))):
            at = content.find(signature, at + 1)
            content[at + flags] |= flag
            if packing:
                content[at + method] = packing
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("entries", [1, 10**6])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("fault, told", [
    ({"flag": 1}, r"s.zip is encrypted \(\d+ of 18 files\); unpack it with its password and give the folder"),
    ({"packing": 9}, "s.zip is packed with deflate64, which Python can't unpack; unpack it and give the folder"),
    ({"packing": 77}, "s.zip is packed with method 77, which Python can't unpack"),
])
def test_an_archive_that_cannot_be_unpacked_is_refused_in_one_line(tmp_path, fault, told, entries, skip):
    path = patched(zipped(tmp_path / "s.zip", kaggle()), entries=entries, **fault)
    with pytest.raises(DataError, match=told) as caught:
        load_xrays(path, SIZE, skip_unreadable=skip)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", [{"flag": 1}, {"packing": 9}])
def test_an_archive_of_arrays_that_cannot_be_unpacked(tmp_path, fault):
    np.savez(tmp_path / "a.npz", train_images=np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(DataError, match="a.npz is (encrypted|packed with deflate64)"):
        load_xrays(patched(tmp_path / "a.npz", **fault), SIZE)


def in_one_line(call, *told):
    "The call is refused in one line that holds these words"
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400 and all(words in message for words in told), message


@pytest.mark.parametrize("version", [46, 63, 99, 255])
def test_an_archive_of_another_zip_version(tmp_path, version):
    path = zipped(tmp_path / "s.zip", kaggle())
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    content[at + 6] = version  # version needed to extract
    path.write_bytes(content)
    if version > 63:
        in_one_line(lambda: load_xrays(path, SIZE), "s.zip is no zip file, or a damaged one", "version")
    else:
        assert len(load_xrays(path, SIZE)) == 18


@pytest.mark.parametrize("inner", ["chest_xray.zip", "a/b.npz", "images.tar.gz"])
def test_an_archive_of_archives_is_to_be_unpacked_first(tmp_path, inner):
    path = zipped(tmp_path / "s.zip", {inner: b"PK", "readme.txt": b"unpack me"})
    in_one_line(lambda: load_xrays(path, SIZE), "s.zip holds no images but 1 archive", inner, "unpack it first")


def test_every_cut_of_an_archive_is_refused_in_one_line(tmp_path):
    content = zipped(tmp_path / "s.zip", kaggle()).read_bytes()
    for cut in range(0, len(content) - 1, len(content) // 40):
        (tmp_path / "cut.zip").write_bytes(content[:cut])
        in_one_line(lambda: load_xrays(tmp_path / "cut.zip", SIZE), "cut.zip is no zip file, or a damaged one")


def test_a_single_image_is_no_set_of_images(tmp_path):
    Image.new("L", (SIZE, SIZE)).save(tmp_path / "one.png")
    in_one_line(lambda: load_xrays(tmp_path / "one.png", SIZE), "one.png is an image", "give a folder")


def test_many_failures_for_one_reason_take_one_line(tmp_path):
    files = kaggle() | {f"train/NORMAL/{i}.png": b"text" for i in range(300)} | {"train/NORMAL/x.png": b""}
    with pytest.raises(DataError, match="301 images in s.zip") as caught:
        load_xrays(zipped(tmp_path / "s.zip", files), SIZE)
    message = str(caught.value)
    assert message.count("\n") == 4 and "and 299 more images: neither JPEG nor PNG" in message and "empty" in message


# ---------------------------------------------------------------- more pixels than memory


def bomb(width: int, height: int, color: int = 0) -> bytes:
    "A PNG that says it is so large, and holds nothing"
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("width, height, color", [(13300, 13300, 0), (8001, 8000, 6), (10**9, 10**9, 2), (1, 10**8, 0)])
@pytest.mark.parametrize("pack", [zipped, unpacked])
def test_too_many_pixels_are_not_decoded(tmp_path, pack, width, height, color, recwarn):
    files = kaggle() | {"train/NORMAL/bomb.png": bomb(width, height, color)}
    with pytest.raises(DataError, match=r"bomb\.png: .*pixels"):
        load_xrays(pack(tmp_path / "s.zip", files), SIZE)
    assert not recwarn.list
    assert load_xrays(tmp_path / "s.zip", SIZE, skip_unreadable=True).unreadable == ("train/NORMAL/bomb.png",)


def test_the_limit_is_an_option_and_the_cache_knows_it(tmp_path):
    path = zipped(tmp_path / "s.zip", kaggle())
    with pytest.raises(DataError, match="more than the 0.001 million allowed"):
        load_xrays(path, SIZE, max_pixels=1000)
    assert len(load_xrays(path, SIZE)) == 18
    with pytest.raises(DataError, match="more than the 0.001 million allowed"):
        load_xrays(path, SIZE, max_pixels=1000)


def declared(path: Path, shape: tuple, content: bytes = b"") -> Path:
    "A MedMNIST file whose images are said to be of this shape"
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    medmnist(path, train_images=None)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images.npy", header.getvalue() + content)
    return path


@pytest.mark.parametrize("shape, content, told", [
    ((10**12, 28, 28), b"", "says it is uint8"),
    ((12, 28, 28), b"x", "says it is uint8"),
    ((1, 9000, 9000), bytes(9000**2), "81 million pixels are more than the 64 million allowed"),
])
def test_arrays_are_not_believed(tmp_path, shape, content, told):
    in_one_line(lambda: load_xrays(declared(tmp_path / "x.npz", shape, content), SIZE), "x.npz can't be read", told)


def test_arrays_together_have_a_limit_too(tmp_path):
    path = medmnist(tmp_path / "x.npz", 28)  # 22 images
    in_one_line(lambda: load_xrays(path, SIZE, max_pixels=1000), "x.npz can't be read", "more than the 0.016")


@pytest.mark.parametrize("member", [b"text", b"", b"\x93NUMPY\x09\x00"])
def test_members_that_are_no_arrays(tmp_path, member):
    path = medmnist(tmp_path / "x.npz", train_images=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train_images.npy", member)
    in_one_line(lambda: load_xrays(path, SIZE), "x.npz can't be read as a MedMNIST file")


def test_an_entry_without_a_name_is_none():
    "Found by `make fuzz`, as was the header that does not end"
    archive = SimpleNamespace(infolist=lambda: [zipfile.ZipInfo("")])
    data._check_packing(archive.infolist(), "s.zip")
    assert data._entries(archive, "s.zip") == {}


@pytest.mark.parametrize("header", [b"\x93NUMPY\x01\x00\x10\x00{'descr': '|u1',("])
def test_a_header_without_an_end(tmp_path, header):
    path = medmnist(tmp_path / "x.npz", train_images=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train_images.npy", header)
    in_one_line(lambda: load_xrays(path, SIZE), "x.npz can't be read as a MedMNIST file")


def test_a_pipe_is_no_source(tmp_path):
    os.mkfifo(tmp_path / "pipe.zip")
    in_one_line(lambda: load_xrays(tmp_path / "pipe.zip", SIZE), "pipe.zip does not exist, or is no file")


@pytest.mark.parametrize("wish, told", [
    ({"workers": 0}, "threads is 0"), ({"workers": -1}, "threads is -1"), ({"workers": 1.5}, "threads is 1.5"),
    ({"max_pixels": 0}, "limit of pixels is 0"), ({"size": 64.5}, "size is 64.5"), ({"size": 10**5}, "at most 4096"),
    ({"size": "64"}, "size is '64'"),
])
def test_wishes_that_cannot_be_met(tmp_path, wish, told):
    in_one_line(lambda: load_xrays(zipped(tmp_path / "s.zip", kaggle()), **{"size": SIZE} | wish), told)


@pytest.mark.parametrize("call", [
    *(lambda wrong=wrong: phantoms(**{"n": 40, "size": 64} | wrong)
      for wrong in ({"n": 40.5}, {"n": 39}, {"size": 10**6}, {"seed": -1}, {"seed": None})),
    *(lambda wrong=wrong: shifted(XRAYS, "blur", **wrong)
      for wrong in ({"strength": float("nan")}, {"strength": "much"}, {"seed": -1})),
    *(lambda wrong=wrong: split_validation(XRAYS, **wrong)
      for wrong in ({"fraction": "some"}, {"fraction": None}, {"seed": -1}, {"seed": 0.5})),
    *(lambda wrong=wrong: show_samples(XRAYS, **wrong) for wrong in ({"columns": 0}, {"seed": -1})),
])
def test_numbers_out_of_range(call):
    in_one_line(call)


XRAYS = phantoms(40, SIZE)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_images_without_a_patient_are_refused(missing):
    xrays = phantoms(40, size=64)
    patients = np.array([missing, missing, *xrays.patients[2:]], dtype=object)
    with pytest.raises(DataError, match="2 of .* images have no patient"):
        replace(xrays, patients=patients)


@pytest.mark.parametrize("name", [
    "../train/NORMAL/a.png", "train/../../NORMAL/a.png", "/train/NORMAL/a.png", "C:\\train\\NORMAL\\a.png",
    "..\\train\\NORMAL\\a.png",
])
def test_paths_that_climb_out_are_refused(tmp_path, name):
    path = zipped(tmp_path / "s.zip", kaggle() | {name: encoded(image_of(1))})
    before = {p for p in tmp_path.rglob("*")}
    with pytest.raises(DataError, match="climbs out"):
        load_xrays(path, SIZE)
    assert {p for p in tmp_path.rglob("*")} == before, "nothing was written"


def test_missing_empty_and_wrong_sources(tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist"):
        load_xrays(tmp_path / "nowhere", SIZE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        load_xrays(tmp_path / "empty", SIZE)
    with pytest.raises(DataError, match="holds no images"):
        load_xrays(zipped(tmp_path / "empty.zip", {}), SIZE)
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(DataError, match="no zip file"):
        load_xrays(tmp_path / "text.zip", SIZE)
    half = zipped(tmp_path / "half.zip", kaggle())
    half.write_bytes(half.read_bytes()[:5000])
    with pytest.raises(DataError, match="damaged"):
        load_xrays(half, SIZE)
    with pytest.raises(DataError, match="no train and test folders"):
        load_xrays(zipped(tmp_path / "flat.zip", {"NORMAL/a.png": encoded(image_of(1))}), SIZE)


@pytest.mark.parametrize("size", [0, -1, 62, None, float("nan")])
def test_sizes_below_the_minimum(tmp_path, size):
    with pytest.raises(DataError, match="at least 63"):
        load_xrays(zipped(tmp_path / "s.zip", kaggle()), size)


@pytest.mark.parametrize("missing, told", [
    ("train/NORMAL", "no readable NORMAL images in train"),
    ("test/PNEUMONIA", "no readable PNEUMONIA images in test"),
    ("test/", "no readable NORMAL images in test"),
    ("/NORMAL", "no readable NORMAL images in train"),
])
def test_one_class_only(tmp_path, missing, told):
    files = {name: content for name, content in kaggle().items() if missing not in name}
    with pytest.raises(DataError, match=told):
        load_xrays(zipped(tmp_path / "s.zip", files), SIZE)


def test_a_third_class_is_named(tmp_path):
    with pytest.raises(DataError, match="other classes than NORMAL and PNEUMONIA: COVID"):
        load_xrays(zipped(tmp_path / "s.zip", kaggle() | {"train/Covid/a.png": encoded(image_of(1))}), SIZE)


# ---------------------------------------------------------------- duplicates and patients


def test_patients_of_the_known_names():
    for name, patient in {
        "chest_xray/train/PNEUMONIA/person1000_bacteria_2931.jpeg": "person1000_bacteria",
        "person80_virus_150.jpeg": "person80_virus",
        "person447_virus_921_1.jpeg": "person447_virus",
        "train/NORMAL/IM-0115-0001.jpeg": "IM-0115",
        "IM-0011-0001-0002.jpeg": "IM-0011",
        "NORMAL2-IM-0383-0001.jpeg": "NORMAL2-IM-0383",
        "train/PNEUMONIA/BACTERIA-1008087-0001.jpeg": "BACTERIA-1008087",
        "train/NORMAL/1.png": "train/NORMAL/1",
        "test/NORMAL/1.png": "test/NORMAL/1",
        "phantom/PNEUMONIA/p0001-1": "p0001",
    }.items():
        assert patient_of(name) == patient


def test_equal_images_make_one_patient(tmp_path):
    files = kaggle()
    files["train/NORMAL/IM-0100-0001.jpeg"] = files["train/NORMAL/IM-0104-0001.jpeg"]
    xrays = load_xrays(zipped(tmp_path / "s.zip", files), SIZE)
    assert len(xrays) == 18 and xrays.left_out == ()
    [group] = find_duplicates(xrays)
    assert {Path(xrays.names[i]).name for i in group} == {"IM-0100-0001.jpeg", "IM-0104-0001.jpeg"}
    assert set(xrays.patients[group]) == {"IM-0100"} and "IM-0104" not in xrays.patients
    assert dataset_table(xrays)["duplicates"].to_dict() == {"train": 1, "val": 0, "test": 0, "all": 1}


def test_an_image_of_test_is_left_out_of_train(tmp_path):
    files = kaggle()
    files["train/NORMAL/IM-0100-0001.jpeg"] = files["test/NORMAL/IM-0301-0001.jpeg"]
    for _ in range(2):
        xrays = load_xrays(zipped(tmp_path / "s.zip", files), SIZE)
        assert xrays.left_out == ("train/NORMAL/IM-0100-0001.jpeg",) and len(xrays) == 17
        assert (xrays.split == "test").sum() == 6 and find_duplicates(xrays) == []
        assert "train/NORMAL/IM-0100-0001.jpeg" in " ".join(xrays.notes)
    assert participant_flow(xrays)["images"].tolist() == [18, 0, 1, 17, 11, 0, 6]


def test_a_patient_in_train_and_test_is_told(tmp_path):
    files = kaggle() | {"test/NORMAL/IM-0100-0002.jpeg": encoded(image_of(55), "JPEG")}
    assert load_xrays(zipped(tmp_path / "s.zip", files), SIZE).notes == ("in more than one split: 1 patient",)


def test_two_labels_for_one_image_are_told(tmp_path):
    files = kaggle()
    files["train/NORMAL/IM-0100-0001.jpeg"] = files["train/PNEUMONIA/person101_virus_1.jpeg"]
    notes = " ".join(load_xrays(zipped(tmp_path / "s.zip", files), SIZE).notes)
    assert "equal images with two labels: train/NORMAL/IM-0100-0001.jpeg" in notes


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.data())
def test_merging_is_what_sharing_means(codes, draw):
    patients = np.array([f"p{c}" for c in codes])
    pairs = draw.draw(st.lists(st.tuples(*[st.integers(0, len(codes) - 1)] * 2), max_size=10))
    merged = merge_patients(patients, [list(pair) for pair in pairs])
    # independent: relabel until nothing changes
    expected = patients.copy()
    for _ in range(len(codes)):
        for a, b in pairs:
            low, high = sorted((expected[a], expected[b]))
            expected[expected == high] = low
    assert merged.tolist() == expected.tolist()


# ---------------------------------------------------------------- MedMNIST


def medmnist(path: Path, size: int = 28, **changes) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 12), ("val", 4), ("test", 6)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, size, size), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % 2).astype(np.uint8)[:, None]
    arrays.update(changes)
    np.savez_compressed(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.mark.parametrize("size", [28, 64, 128])
def test_medmnist(tmp_path, size):
    path = medmnist(tmp_path / "pneumoniamnist.npz", size)
    xrays = load_xrays(path, SIZE)
    assert len(xrays) == 22 and xrays.size == SIZE and len(np.unique(xrays.patients)) == 22
    assert [(xrays.split == s).sum() for s in ("train", "val", "test")] == [12, 4, 6]
    assert xrays.labels.tolist() == [0, 1] * 11 and xrays.labels.dtype == np.int64
    if size == SIZE:
        assert (xrays.part("test").images[:, 0] == np.load(path)["test_images"]).all()


def test_medmnist_variants(tmp_path):
    plain = load_xrays(medmnist(tmp_path / "a.npz", SIZE), SIZE)
    images = {f"{s}_images": np.load(tmp_path / "a.npz")[f"{s}_images"] for s in ("train", "val", "test")}
    colour = {name: np.stack([array] * 3, -1) for name, array in images.items()}
    assert (load_xrays(medmnist(tmp_path / "b.npz", **colour), SIZE).images == plain.images).all()
    single = {name: array[..., None] for name, array in images.items()}
    assert (load_xrays(medmnist(tmp_path / "c.npz", **single), SIZE).images == plain.images).all()
    flat = load_xrays(medmnist(tmp_path / "d.npz", train_labels=np.arange(12) % 2), SIZE)
    assert (flat.labels == plain.labels).all()
    no_val = load_xrays(medmnist(tmp_path / "e.npz", val_images=None, val_labels=None), SIZE)
    assert len(no_val.part("val")) == 0 and len(split_validation(no_val, 0.3).part("val")) == 4
    os.rename(tmp_path / "a.npz", tmp_path / "a.download")
    assert len(load_xrays(tmp_path / "a.download", SIZE)) == 22, "told by content, not by suffix"


@pytest.mark.parametrize("changes, told", [
    ({"train_images": None}, "lacks the arrays train_images"),
    ({"test_labels": None, "test_images": None}, "lacks the arrays test_images, test_labels"),
    ({"train_labels": np.arange(12)[:, None]}, "labels hold 2, 3, 4"),
    ({"train_labels": np.zeros((12, 14), int)}, "one label per image"),
    ({"train_labels": np.zeros((11, 1), int)}, "one label per image"),
    ({"train_labels": np.zeros((12, 1), int)}, "no readable PNEUMONIA images in train"),
    ({"test_images": np.zeros((6, 28, 28))}, "expected uint8"),
    ({"test_images": np.zeros((6, 28, 28, 28), np.uint8)}, "expected uint8"),
    ({"test_images": np.array([None] * 6)}, "can't be read as a MedMNIST file"),
])
def test_wrong_medmnist_files(tmp_path, changes, told):
    with pytest.raises(DataError, match=told):
        load_xrays(medmnist(tmp_path / "x.npz", **changes), SIZE)


def test_damaged_medmnist_file(tmp_path):
    path = medmnist(tmp_path / "x.npz", 64)
    content = bytearray(path.read_bytes())
    content[3000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="can't be read as a MedMNIST file"):
        load_xrays(path, SIZE)


# ---------------------------------------------------------------- cache


def test_the_second_load_decodes_nothing(tmp_path, monkeypatch):
    path = zipped(tmp_path / "s.zip", kaggle())
    first = load_xrays(path, SIZE)
    files = sorted(p.suffix for p in (tmp_path / "cache").iterdir())
    assert files == [".json", ".npy"], "no drafts are left"
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded again"))
    second = load_xrays(path, SIZE)
    for field in ("images", "labels", "patients", "names", "split"):
        a, b = getattr(first, field), getattr(second, field)
        assert a.dtype == b.dtype and (a == b).all()
    assert (first.fingerprint, first.notes) == (second.fingerprint, second.notes)
    renamed = load_xrays(path.rename(tmp_path / "other.zip"), SIZE)
    assert renamed.source == "other.zip" and (renamed.images == first.images).all()


def test_another_size_or_content_is_another_entry(tmp_path):
    path = zipped(tmp_path / "s.zip", kaggle())
    small, large = load_xrays(path, SIZE), load_xrays(path, 80)
    assert (small.size, large.size) == (SIZE, 80)
    folder = unpacked(tmp_path / "folder", kaggle())
    before = load_xrays(folder, SIZE)
    (folder / "train/NORMAL/IM-0100-0001.jpeg").write_bytes(encoded(image_of(999), "JPEG"))
    after = load_xrays(folder, SIZE)
    assert (before.images != after.images).any() and before.fingerprint != after.fingerprint


def test_writing_to_the_images_leaves_the_cache_alone(tmp_path):
    path = zipped(tmp_path / "s.zip", kaggle())
    load_xrays(path, SIZE)
    loaded = load_xrays(path, SIZE)
    kept = loaded.images.copy()
    loaded.images[:] = 0
    assert (load_xrays(path, SIZE).images == kept).all()


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_a_damaged_cache_is_made_anew(tmp_path, suffix):
    path = zipped(tmp_path / "s.zip", kaggle())
    first = load_xrays(path, SIZE)
    images = first.images.copy()
    del first
    [entry] = (tmp_path / "cache").glob(f"*{suffix}")
    entry.write_bytes(entry.read_bytes()[:100])
    with pytest.warns(UserWarning, match="damaged"):
        assert (load_xrays(path, SIZE).images == images).all()
    assert (load_xrays(path, SIZE).images == images).all()


def test_without_a_usable_cache(tmp_path):
    path = zipped(tmp_path / "s.zip", kaggle())
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="not kept"):
        a = load_xrays(path, SIZE, cache=tmp_path / "file" / "cache")
    b = load_xrays(path, SIZE, cache=False)
    assert (a.images == b.images).all() and not (tmp_path / "cache").exists()


def test_an_interrupted_load_leaves_no_entry(tmp_path, monkeypatch):
    path = zipped(tmp_path / "s.zip", kaggle())

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load_xrays(path, SIZE)
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(load_xrays(path, SIZE)) == 18


def test_no_path_of_the_machine_in_what_is_kept(tmp_path):
    folder = unpacked(tmp_path / "xrays", kaggle())
    xrays = load_xrays(folder, SIZE)
    [meta] = (tmp_path / "cache").glob("*.json")
    assert str(tmp_path) not in meta.read_text() and str(tmp_path) not in repr(xrays)
    assert not any(str(tmp_path) in name for name in xrays.names)


# ---------------------------------------------------------------- splits, shifts, phantoms


def kermany(counts=(60, 90), seed=0) -> XRays:
    """Names and patients as in the real archive, images that don't matter"""
    rng = np.random.default_rng(seed)
    names = [
        f"train/NORMAL/IM-{n:04d}-{k:04d}.jpeg"
        for n in range(100, 100 + counts[0]) for k in range(rng.integers(1, 4))
    ]
    names += [
        f"train/PNEUMONIA/person{n}_{kind}_{k}.jpeg"
        for kind in ("bacteria", "virus") for n in range(counts[1] // 2) for k in range(rng.integers(1, 6))
    ]
    order = rng.permutation(len(names))
    names = np.array(names)[order]
    labels = np.array([int("PNEUMONIA" in name) for name in names])
    images = np.zeros((len(names), 1, 63, 63), np.uint8)
    return XRays(
        images, labels, np.array([patient_of(name) for name in names]), names, np.full(len(names), "train"), "made", ""
    )


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 0.5), st.sampled_from(["patient", "acquisition"]), st.integers(0, 99))
def test_splits_hold_their_promises(fraction, strategy, seed):
    xrays = kermany(seed=seed)
    split = split_validation(xrays, fraction, strategy=strategy, seed=seed)
    val, train = split.part("val"), split.part("train")
    assert not set(val.patients) & set(train.patients) and len(val) + len(train) == len(xrays)
    for label in (0, 1):
        share = (split.split == "val")[xrays.labels == label].mean()
        assert abs(share - fraction) < 0.05, "about the fraction, in each class"
    again = split_validation(xrays, fraction, strategy=strategy, seed=seed)
    assert (again.split == split.split).all()


def test_acquisition_takes_the_lowest_numbers_of_each_series():
    split = split_validation(kermany(), 0.2, strategy="acquisition")
    number = lambda part, kind: {int("".join(filter(str.isdigit, p))) for p in part.patients if kind in p}
    for kind in ("IM", "bacteria", "virus"):
        assert max(number(split.part("val"), kind)) < min(number(split.part("train"), kind))


def test_test_is_never_touched():
    xrays = phantoms(60, 63)
    for strategy in ("patient", "acquisition"):
        split = split_validation(xrays, 0.3, strategy=strategy)
        assert ((split.split == "test") == (xrays.split == "test")).all()


@pytest.mark.parametrize("fraction", [0, -0.1, 0.51, 1, float("nan")])
def test_fractions_that_make_no_sense(fraction):
    with pytest.raises(DataError, match="makes no sense"):
        split_validation(phantoms(40, 63), fraction)


def test_too_few_patients():
    xrays = kermany((1, 40))
    with pytest.raises(DataError, match="both classes"):
        split_validation(xrays)


def test_shifts_are_deterministic_and_differ():
    xrays = phantoms(40, 63)
    suite = shift_suite(xrays, seed=3)
    assert list(suite) == ["clean", *SHIFTS] and suite["clean"] is xrays
    seen = {xrays.images.tobytes()}
    for kind in SHIFTS:
        again = shifted(xrays, kind, seed=3)
        assert (again.images == suite[kind].images).all() and again.images.dtype == np.uint8
        assert (again.names == xrays.names).all() and again.synthetic
        assert again.images.tobytes() not in seen
        seen.add(again.images.tobytes())
    for kind in ("exposure", "rotation", "noise", "crop"):
        assert (shifted(xrays, kind, seed=4).images != suite[kind].images).any()


def test_geometry_is_what_it_says():
    size = 101
    image = np.zeros((1, 1, size, size), np.uint8)
    image[0, 0, 50, 20:81] = 255  # a horizontal bar through the centre
    bar = XRays(image, *[np.zeros(1, int)], np.array(["a"]), np.array(["a"]), np.array(["test"]), "made", "")
    turned = shifted(bar, "rotation").images[0, 0].astype(float)
    rows, columns = np.nonzero(turned > 40)
    slope = np.polyfit(columns, rows, 1)[0]
    assert abs(abs(np.degrees(np.arctan(slope))) - 10) < 1
    assert abs(rows.mean() - 50) < 1 and abs(columns.mean() - 50) < 1, "about the centre"
    length = (shifted(bar, "scale").images[0, 0].max(0) > 60).sum()
    assert min(abs(length - 61 * 1.2), abs(length - 61 / 1.2)) < 3
    square = np.zeros((1, 1, size, size), np.uint8)
    square[0, 0, 30:71, 30:71] = 255
    squeezed = shifted(replace(bar, images=square), "aspect").images[0, 0] > 127
    width, height = squeezed.any(0).sum(), squeezed.any(1).sum()
    assert min(abs(width / height - 4 / 3), abs(width / height - 3 / 4)) < 0.04 and abs(width * height - 41**2) < 60
    ramp = replace(bar, images=np.tile(np.arange(size, dtype=np.uint8) * 2, (1, 1, size, 1)))
    slopes = np.diff(shifted(ramp, "crop").images[0, 0].astype(float)[:, 5:-5])
    assert abs(slopes.mean() - 2 * 0.8) < 0.05, "80 % of the width fill the image"


def test_tone_curves_are_monotone():
    ramp = np.tile(np.arange(256, dtype=np.uint8), (8, 1, 256, 1))
    xrays = XRays(ramp, np.zeros(8, int), *[np.array(["a"] * 8)] * 2, np.array(["test"] * 8), "made", "")
    for kind in ("exposure", "contrast", "gamma"):
        out = shifted(xrays, kind).images[:, 0, 0].astype(int)
        assert (np.diff(out, axis=1) >= 0).all() and len({row.tobytes() for row in out}) == 2, "brighter or darker"


def test_phantoms():
    xrays = phantoms(80, 72, seed=5)
    assert xrays.synthetic and "synthetic" in repr(xrays) and xrays.images.shape == (80, 1, 72, 72)
    assert (phantoms(80, 72, seed=5).images == xrays.images).all()
    assert all(name.startswith("phantom/") and CLASSES[label] in name for name, label in zip(xrays.names, xrays.labels))
    assert len(np.unique(xrays.patients)) < 80 and find_duplicates(xrays) == []
    for split in ("train", "val", "test"):
        assert set(xrays.part(split).labels) == {0, 1}
    assert "synthetic" in dataset_table(xrays).columns.name and "synthetic" in participant_flow(xrays).columns.name
    titles = [ax.get_title() for ax in show_samples(xrays).axes]
    assert titles and all("phantom" in title for title in titles)
    named = replace(xrays, synthetic=False)
    assert not any("phantom" in ax.get_title() for ax in show_samples(named).axes)


def test_phantoms_are_neither_trivial_nor_hopeless():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    xrays = phantoms(400, 64, seed=1)

    def features(part):
        images = part.images[:, 0].reshape(len(part), 8, 8, 8, 8).mean((2, 4)).reshape(len(part), -1)
        return (images - images.mean(1, keepdims=True)) / images.std(1, keepdims=True)

    train, test = xrays.part("train"), xrays.part("test")
    model = LogisticRegression(C=0.3, max_iter=2000).fit(features(train), train.labels)
    assert 0.65 < roc_auc_score(test.labels, model.decision_function(features(test))) < 0.97


def test_taking_and_parts():
    xrays = phantoms(40, 63)
    assert (xrays.take([3, 1]).names == xrays.names[[3, 1]]).all()
    assert (xrays.take(xrays.labels == 1).labels == 1).all() and len(xrays.take(slice(2, 7))) == 5
    assert len(xrays.take([])) == 0 and len(xrays.take(slice(0, 0)).part("val")) == 0
    with pytest.raises(DataError, match="choose one of"):
        xrays.part("holdout")
    with pytest.raises(DataError, match="40 images, but 39 labels"):
        replace(xrays, labels=xrays.labels[1:])
    with pytest.raises(DataError, match="uint8"):
        replace(xrays, images=xrays.images / 255)


# ---------------------------------------------------------------- downloads


@pytest.fixture
def served(tmp_path):
    """Zenodo, on this machine: the address of one file, and its checksum"""
    medmnist(tmp_path / "www.npz")
    content = (tmp_path / "www.npz").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if "pneumoniamnist.npz" in self.path else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/pneumoniamnist.npz", f"md5:{hashlib.md5(content).hexdigest()}"
        running.shutdown()


def test_download(tmp_path, monkeypatch, served):
    monkeypatch.setitem(DOWNLOADS, "pneumoniamnist", served)
    path = download("pneumoniamnist", tmp_path / "new/folder")
    assert path == tmp_path / "new/folder/pneumoniamnist.npz" and len(load_xrays(path, SIZE)) == 22


def test_download_with_a_wrong_checksum_leaves_nothing(tmp_path, monkeypatch, served):
    monkeypatch.setitem(DOWNLOADS, "pneumoniamnist", (served[0], f"md5:{'0' * 32}"))
    with pytest.raises(DataError, match="could not be downloaded"):
        download("pneumoniamnist", tmp_path / "new")
    assert list((tmp_path / "new").glob("*.npz")) == []


def test_download_without_network(tmp_path, monkeypatch):
    monkeypatch.setitem(DOWNLOADS, "pneumoniamnist_224", ("http://127.0.0.1:9/pneumoniamnist_224.npz", "md5:0"))
    with pytest.raises(DataError, match=r"(?s)could not be downloaded.*by other means.*phantoms"):
        download("pneumoniamnist_224", tmp_path)
    with pytest.raises(DataError, match="choose one of pneumoniamnist, pneumoniamnist_64"):
        download("chestmnist", tmp_path)


def test_download_from_kaggle(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)  # as if not installed
    with pytest.raises(DataError, match="pip install kagglehub"):
        download("kaggle", tmp_path)
    module = types.ModuleType("kagglehub")
    module.dataset_download = lambda handle, output_dir: unpacked(Path(output_dir), kaggle("chest_xray/"))
    monkeypatch.setitem(sys.modules, "kagglehub", module)
    assert len(load_xrays(download("kaggle", tmp_path / "k"), SIZE)) == 18

    def offline(*_, **__):
        raise ConnectionError("no route to host")

    module.dataset_download = offline
    with pytest.raises(DataError, match=r"no route to host.*www.kaggle.com"):
        download("kaggle", tmp_path / "k2")


# ---------------------------------------------------------------- the real X-rays


@pytest.mark.hard
@pytest.mark.skipif(not REAL.exists(), reason="the real archive is not at ../shared/data/chest_xray.zip")
def test_the_real_archive():
    first = load_xrays(REAL, 64)  # small, to be quick; the same images
    start = time.perf_counter()
    xrays = load_xrays(REAL, 64)
    assert time.perf_counter() - start < 1, "the second load comes from the cache"
    assert (first.labels == xrays.labels).all()
    table = dataset_table(xrays)
    assert table.loc["train", list(CLASSES)].tolist() == [1341, 3875]
    assert table.loc["test", list(CLASSES)].tolist() == [234, 390]
    assert table["duplicates"].to_dict() == {"train": 24, "val": 0, "test": 6, "all": 30}
    assert xrays.unreadable == () == xrays.left_out == xrays.notes, "no patient and no image in both splits"
    assert xrays.fingerprint == "e6e3d4f382a69b676d04d0e7bbf9c51384b719e3436d1dbb0ef992f667d85d0d"
    merged = {patient_of(n): p for n, p in zip(xrays.names, xrays.patients)}
    assert merged["NORMAL2-IM-0095-0001.jpeg".rsplit("-", 1)[0]] == merged["NORMAL2-IM-0096"]
    for strategy in ("patient", "acquisition"):
        split = split_validation(xrays, strategy=strategy)
        parts = [set(split.part(s).patients) for s in ("train", "val", "test")]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        for label in (0, 1):
            pool = split.take((split.split != "test") & (split.labels == label))
            assert abs((pool.split == "val").mean() - 0.15) < 0.005
