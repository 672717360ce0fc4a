"""Images per second of a training: `fit`, and the loop that tutorials teach, in turns

    python bench/training.py chest_xray.zip                  # AlexNet, 224 px, two threads
    python bench/training.py chest_xray.zip --size 128 --rounds 7

The tutorial's loop: ImageFolder, a DataLoader with two workers, transforms of PIL (resize, rotation, mirror, crop),
float32, Adam, batches of 64. `fit` does its whole augmentation, in the precision it chooses, with the average of the
weights and the clipping that it always has. Neither validates nor writes. Each turn times as many steps of both; the
ratio is taken within a turn.
"""

import argparse
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms
from tqdm.auto import tqdm

from pneumoprune import training
from pneumoprune.alexnet import alexnet
from pneumoprune.data import load_xrays

BATCH = 64


def tutorial(folder: Path, size: int) -> Iterator[int]:
    "Trains as tutorials do; the number of images of each step, when it is done"
    change = transforms.Compose([
        transforms.Resize((size, size)), transforms.RandomRotation(12), transforms.RandomHorizontalFlip(),
        transforms.RandomResizedCrop(size, (0.8, 1.0)), transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ])  # fmt: skip
    images = datasets.ImageFolder(str(folder), change)
    model, criterion = models.alexnet(num_classes=2), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    model.train()
    while True:
        for x, y in DataLoader(images, BATCH, shuffle=True, num_workers=2, drop_last=True):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
            yield len(x)


def ours(archive: Path, size: int) -> Iterator[int]:
    "Trains as `fit` does; the number of images of each step, when it is done"
    train = load_xrays(archive).part("train")
    settings = training.TrainSettings(device="cpu", resample=0.75, progression=((1.0, size / train.size),))
    state = training._Training(alexnet(seed=0), train, settings, training._accelerator(settings), None)
    state.net.train()
    weights = training._class_weights(train.labels)[train.labels]
    while True:
        numbers = torch.rand(len(train), len(training._CHOICES))
        for step, batch in enumerate(torch.randperm(len(train)).split(BATCH)[:-1], 1):
            images = training._augmented(state.take(batch), numbers[batch], size, settings)
            training._step(state, images, state.labels[batch], (float(weights[batch].sum()), BATCH))
            if step % training._pause(settings) == 0:
                training._average(state, training._pause(settings))
            yield BATCH


def measure(archive: Path, size: int, rounds: int, steps: int) -> dict[str, list[float]]:
    "Images per second of each turn; both are warm before the first"
    with tempfile.TemporaryDirectory() as name:
        with zipfile.ZipFile(archive) as whole:
            whole.extractall(name, [entry for entry in whole.namelist() if "/train/" in entry])
        loops = {"tutorial": tutorial(next(Path(name).rglob("train")), size), "fit": ours(archive, size)}
        found: dict[str, list[float]] = {kind: [] for kind in loops}
        for turn in tqdm(range(rounds + 1)):
            for kind, loop in loops.items():
                with training._keep_memory(torch.device("cpu" if kind == "fit" else "meta")):
                    start = time.perf_counter()
                    images = sum(next(loop) for _ in range(steps))
                    if turn:
                        found[kind].append(images / (time.perf_counter() - start))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(2)
    rates = measure(options.archive, options.size, options.rounds, options.steps)
    ratio = np.divide(rates["fit"], rates["tutorial"])
    for kind, values in {**rates, "ratio": ratio.tolist()}.items():
        low, middle, high = np.percentile(values, (25, 50, 75))
        print(f"{kind}: {middle:.1f} ({low:.1f} to {high:.1f})")
