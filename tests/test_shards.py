"Training images in shards: the same images, the same seed, the same numbers, whatever the number of processes"

import io
import tarfile
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pneumoprune import training
from pneumoprune.alexnet import narrow_alexnet
from pneumoprune.core import MissingExtra
from pneumoprune.data import DataError, open_shards, stream_batches, stream_images
from pneumoprune.synthetic import phantoms
from pneumoprune.training import TrainSettings, fit

XRAYS = phantoms(120, size=64, seed=0)
VAL = XRAYS.part("val")
SETTINGS = TrainSettings(epochs=3, batch_size=16, lr=1e-3, device="cpu", precision="fp32", state_every=0)


def network():
    return narrow_alexnet((8, 8, 8, 8, 8), (16, 16), planes=1, seed=0)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    "Three tar files in the layout of WebDataset"
    folder, train = tmp_path_factory.mktemp("shards"), XRAYS.part("train")
    for number, part in enumerate(np.array_split(np.arange(len(train)), 3)):
        with tarfile.open(folder / f"train-{number}.tar", "w") as tar:
            for i in part:
                for kind, content in (("png", png(train.images[i, 0])), ("cls", str(train.labels[i]).encode())):
                    info = tarfile.TarInfo(f"p{i:05d}.{kind}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return folder


@pytest.fixture
def stream(shards):
    pytest.importorskip("datasets")
    return open_shards(shards / "train-*.tar", VAL, image="png", buffer=20)


def epoch(stream, seed):
    return [[example["__key__"] for example in batch] for batch in stream_batches(stream, 16, 4, seed)]


def test_labels_are_counted_and_the_order_follows_from_the_seed(stream, shards):
    assert stream.counts == XRAYS.part("train").counts and len(stream) == len(XRAYS.part("train"))
    assert epoch(stream, 5) == epoch(stream, 5) != epoch(stream, 6)
    first = next(stream_batches(stream, 16, 1, 5))
    keys = [int(example["__key__"][-5:]) for example in first]
    assert np.array_equal(stream_images(stream, first), XRAYS.part("train").images[keys])
    given = open_shards([shards / f"train-{n}.tar" for n in range(3)], VAL, image="png", counts=stream.counts)
    assert given.fingerprint == stream.fingerprint


def test_a_stream_trains_and_an_interrupted_training_goes_on(stream, tmp_path):
    whole = fit(network(), stream, SETTINGS)
    with patch.object(training, "_finish", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        fit(network(), stream, SETTINGS, folder=tmp_path)
    (tmp_path / "state-3.safetensors").unlink()
    resumed = fit(network(), stream, SETTINGS, folder=tmp_path)
    pd.testing.assert_frame_equal(whole.drop(columns="seconds"), resumed.drop(columns="seconds"))
    assert whole["train_loss"].iloc[-1] < whole["train_loss"].iloc[0]
    other = replace(stream, fingerprint="of other images")
    with pytest.raises(training.PneumopruneError, match=r"another training \(data changed\)"):
        fit(network(), other, SETTINGS, folder=tmp_path)


def test_processes_share_the_batches(stream):
    accelerator = SimpleNamespace(device=torch.device("cpu"))
    about: Any = SimpleNamespace(train=stream, size=16, steps=3, accelerator=accelerator)
    batches = {rows: list(training._batches(about, slice(*rows), 7)) for rows in ((0, 16), (0, 9), (9, 16))}
    for alone, one, two in zip(*batches.values()):
        for part in range(3):  # images, labels, random numbers
            assert torch.equal(torch.cat([one[part], two[part]]), alone[part])
        assert one[3] == two[3] == alone[3]


def test_what_is_no_source_of_shards_is_told_in_a_line(shards, tmp_path):
    with patch.dict("sys.modules", datasets=None), pytest.raises(MissingExtra, match=r"pneumoprune\[stream\]"):
        open_shards(shards / "*.tar", VAL)
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match="no shards are found at"):
        open_shards(tmp_path / "*.tar", VAL)
    (tmp_path / "poem.tar").write_bytes(b"no archive")
    for path, told in ((tmp_path / "poem.tar", "can't be read as webdataset"), (shards / "*.tar", "jpg")):
        with pytest.raises(DataError, match=told) as error:
            open_shards(path, VAL)
        assert "\n" not in str(error.value)
