"""Images per second of a training: `fit`, and the loop that tutorials teach, in turns; and where a step's time goes

    python bench/training.py --data chest_xray.zip

The tutorial's loop: ImageFolder, a DataLoader with two workers, transforms of PIL (resize, rotation, mirror, crop),
float32, Adam, batches of 64. `fit` does its whole augmentation, in the precision it chooses, with the average of the
weights and the clipping that it always has. Neither validates nor writes. Each turn times as many steps of both.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from common import Row, images, in_turns, row, run
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

from pneumoprune import training
from pneumoprune.alexnet import alexnet
from pneumoprune.data import CLASSES, XRays

BATCH, STEPS, ROUNDS = 64, 4, 5
GOALS = {224: 4, 128: 7}  # side in pixels -> times as fast


def write_folder(xrays: XRays, folder: Path) -> Path:
    "The images as JPEG in folders by class, in three equal planes, as the archive has them"
    for number, (image, label) in enumerate(zip(xrays.images[:, 0], xrays.labels)):
        place = folder / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert("RGB").save(place / f"{number}.jpeg", quality=90)
    return folder


def tutorial(folder: Path, size: int) -> Iterator[int]:
    "Trains as tutorials do; the number of images of each step, when it is done"
    change = transforms.Compose([
        transforms.Resize((size, size)), transforms.RandomRotation(12), transforms.RandomHorizontalFlip(),
        transforms.RandomResizedCrop(size, (0.8, 1.0)), transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ])  # fmt: skip
    found = datasets.ImageFolder(str(folder), change)
    model, criterion = models.alexnet(num_classes=2), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    model.train()
    while True:
        for x, y in DataLoader(found, BATCH, shuffle=True, num_workers=2, drop_last=True):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
            yield len(x)


class Fit:
    "Trains as `fit` does; `spent` tells the seconds of each part of its steps"

    PARTS = ("augmentation", "forward", "backward", "clipping", "optimiser", "averaging")

    def __init__(self, xrays: XRays, size: int):
        self.size, self.settings = size, training.TrainSettings(device="cpu", resample=0.75)
        accelerator = training._accelerator(self.settings)
        self.state = training._Training(alexnet(seed=0), xrays, self.settings, accelerator, None)
        self.weights = training._class_weights(xrays.counts)[xrays.labels]
        self.spent: list[list[float]] = []

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            numbers = torch.rand(len(self.weights), len(training._CHOICES))
            for batch in torch.randperm(len(self.weights)).split(BATCH)[:-1]:
                yield batch, numbers[batch]

    def step(self, batch: torch.Tensor, numbers: torch.Tensor, average: bool) -> list[float]:
        "The parts of `training._train_epoch` and `training._step`, with a clock between them"
        state, clock = self.state, [time.perf_counter()]
        past = lambda: clock.append(time.perf_counter())
        augmented = training._augmented(state.take(batch), numbers, self.size, self.settings)
        past()
        whole = float(self.weights[batch].sum()), len(batch)
        loss = training._loss(state.net(augmented), state.labels[batch], state.weight, self.settings, None, whole)
        past()
        state.accelerator.backward(loss)
        past()
        training._clip(state.optimizer, self.settings.clip)
        past()
        state.optimizer.step()
        state.scheduler.step()
        state.optimizer.zero_grad()
        past()
        if average:
            training._average(state, training._pause(self.settings))
        past()
        return np.diff(clock).tolist()

    def __iter__(self) -> Iterator[int]:
        self.state.net.train()
        with training._suited_to_cpu(self.state.model, self.state.accelerator):
            for number, (batch, numbers) in enumerate(self.batches(), 1):
                self.spent.append(self.step(batch, numbers, number % training._pause(self.settings) == 0))
                yield len(batch)


def rate(steps: Iterator[int], kept: bool) -> Callable[[], float]:
    "Images per second of the next steps; `kept`: glibc keeps memory, as `fit` has it"
    def timed() -> float:
        with training._keep_memory(torch.device("cpu" if kept else "meta")):
            start = time.perf_counter()
            return sum(next(steps) for _ in range(STEPS)) / (time.perf_counter() - start)

    return timed


def compared(xrays: XRays, folder: Path, size: int, least: float) -> Iterator[Row]:
    "`fit` against the tutorial's loop at one side"
    ours = Fit(xrays, size)
    contenders = {"tutorial": rate(tutorial(folder, size), False), "fit": rate(iter(ours), True)}
    turns = list(in_turns(contenders, ROUNDS))
    spent = 1000 * np.median(ours.spent[STEPS:], 0)
    spent[-1] = 1000 * np.mean(ours.spent[STEPS:], 0)[-1]  # not at every step
    where = "a step of `fit` takes, in ms: " + ", ".join(f"{part} {ms:.0f}" for part, ms in zip(Fit.PARTS, spent))
    yield row(f"training at {size} px: `fit` against the tutorial's loop", [t["fit"] / t["tutorial"] for t in turns],
              "times", least=least, why=where)
    for kind in contenders:
        name = "`fit`" if kind == "fit" else "the tutorial's loop"
        yield row(f"training at {size} px: {name}", [t[kind] for t in turns], "images/s")
    fixed = np.sum(ours.spent[STEPS:], 0)[3:].sum() / len(ours.spent[STEPS:])
    yield row(f"training at {size} px: clipping, optimiser and averaging of a step", 1000 * fixed, "ms", most=50,
              why=where + "; the optimiser reads and writes every weight and its two moments, seven times 233 MB")


def measure(data: Path | None) -> Iterator[Row]:
    train = images(data).part("train")
    train = train.take(np.random.default_rng(0).permutation(len(train))[:1024])
    with tempfile.TemporaryDirectory() as name:
        folder = write_folder(train, Path(name))
        for size, least in GOALS.items():
            yield from compared(train, folder, size, least)


if __name__ == "__main__":
    run(measure)
