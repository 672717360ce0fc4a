"""Seconds to have every image once: `load_xrays`, cold and warm, and torchvision's ImageFolder with a DataLoader

    python bench/loading.py --data chest_xray.zip

Cold is the first time: everything is decoded, equal images are found, and the decoded images are kept. Warm is every
later start. ImageFolder decodes in every epoch; its DataLoader has two workers, and makes batches of 64.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from common import Row, images, in_turns, row, run
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from training import write_folder

from pneumoprune.data import load_xrays

COUNT, ROUNDS = 1500, 3


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def epoch(folder: Path) -> None:
    "Every image once, as tutorials load them"
    change = transforms.Compose([transforms.Grayscale(), transforms.Resize((224, 224)), transforms.PILToTensor()])
    for batch, _ in DataLoader(datasets.ImageFolder(str(folder), change), 64, num_workers=2):
        assert batch.dtype == torch.uint8


def ours(folder: Path, cache: Path) -> None:
    "Load, and look at every image"
    xrays = load_xrays(folder, 224, cache=cache)
    assert int(np.add.reduce(xrays.images, axis=None, dtype=np.int64)) > 0


def measure(data: Path | None) -> Iterator[Row]:
    found = images(data).part("train")
    found = found.take(np.random.default_rng(0).permutation(len(found))[:COUNT])
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "images")
        write_folder(found.take(slice(0, None, 2)), source / "train")
        write_folder(found.take(slice(1, None, 2)), source / "test")
        caches = iter(Path(name, f"cache-{number}") for number in range(100))
        ours(source, warm := Path(name, "warm"))
        contenders = {
            "ImageFolder": lambda: seconds(lambda: [epoch(source / part) for part in ("train", "test")]),
            "cold": lambda: seconds(lambda: ours(source, next(caches))),
            "warm": lambda: seconds(lambda: ours(source, warm)),
        }
        turns = list(in_turns(contenders, ROUNDS))
    for kind in ("cold", "warm"):
        yield row(f"loading {len(found)} images, {kind}: `load_xrays` against ImageFolder",
                  [t["ImageFolder"] / t[kind] for t in turns], "times")
    for kind in contenders:
        yield row(f"loading {len(found)} images: {kind}", [t[kind] for t in turns], "s")


if __name__ == "__main__":
    run(measure)
