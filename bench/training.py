"""Images per second of a training: `fit`, and the loop that tutorials teach, in turns; and where a step's time goes

    python bench/training.py --data chest_xray.zip

The tutorial's loop: ImageFolder, a DataLoader with two workers, transforms of PIL (resize, rotation, mirror, crop),
float32, Adam, batches of 64. `fit` does its whole augmentation, in the precision it chooses, with the average of the
weights and the clipping that it always has. Neither validates nor writes. Each turn times as many steps of all.

`fit` trains its first epochs on smaller images, the tutorial's loop does not. So 128 pixels are compared twice: with
the loop as it is, and with one whose images are as small. A whole training counts every epoch at its own side.
"""

import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from pneumoprune.lab import LabSettings

BATCH, STEPS, ROUNDS = 64, 4, 5
FULL, SMALL = 224, 128  # sides in pixels
FIXED = "clipping, optimiser and averaging of a step"


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
    "Trains as `fit` does, at several sides in turn; `spent` tells the seconds of each part of its steps"

    PARTS = ("augmentation", "forward", "backward", "clipping", "optimiser", "averaging")

    def __init__(self, xrays: XRays):
        self.settings = replace(LabSettings().original, device="cpu")
        accelerator = training._accelerator(self.settings)
        self.state = training._Training(alexnet(seed=0), xrays, self.settings, accelerator, None)
        self.weights = training._class_weights(xrays.counts)[xrays.labels]
        self.sides = Counter(self.settings.side(epoch, FULL) for epoch in range(self.settings.epochs))
        self.spent: dict[int, list[list[float]]] = defaultdict(list)

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            numbers = torch.rand(len(self.weights), len(training._CHOICES))
            for batch in torch.randperm(len(self.weights)).split(BATCH)[:-1]:
                yield batch, numbers[batch]

    def step(self, batch: torch.Tensor, numbers: torch.Tensor, side: int, average: bool) -> list[float]:
        "The parts of `training._train_epoch` and `training._step`, with a clock between them"
        state, clock = self.state, [time.perf_counter()]
        past = lambda: clock.append(time.perf_counter())
        augmented = training._augmented(state.take(batch), numbers, side, self.settings)
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

    def steps(self, side: int) -> Iterator[int]:
        self.state.net.train()
        for number, (batch, numbers) in enumerate(self.batches(), 1):
            self.spent[side].append(self.step(batch, numbers, side, number % training._pause(self.settings) == 0))
            yield len(batch)

    def milliseconds(self, side: int) -> str:
        "Where a step's time goes, in words"
        spent = 1000 * np.median(self.spent[side][STEPS:], 0)
        spent[-1] = 1000 * np.mean(self.spent[side][STEPS:], 0)[-1]  # not at every step
        return "a step of `fit` takes, in ms: " + ", ".join(f"{part} {ms:.0f}" for part, ms in zip(self.PARTS, spent))

    def fixed(self, side: int) -> list[float]:
        "Milliseconds of what does not depend on the images, round by round"
        spent = 1000 * np.array(self.spent[side][STEPS:])[:, 3:].sum(1)
        pause = training._pause(self.settings)
        return [float(part.mean()) for part in np.split(spent[: len(spent) // pause * pause], len(spent) // pause)]

    def moved(self) -> list[float]:
        "Milliseconds, inside the optimiser's part, of what backward and forward had before; made apart, ten times"
        found = []
        for _ in range(10):
            start = time.perf_counter()
            for known in self.state.optimizer.factored.values():
                weight = known.weight.detach()
                grads, inputs = (torch.ones(BATCH, n, dtype=torch.bfloat16) for n in weight.shape)
                by_rows = (t.split(training._ROWS) for t in (grads.T.contiguous(), weight, known.copy))
                for part, w, copied in zip(*by_rows):
                    (part @ inputs).float()
                    copied.copy_(w)
            found.append(1000 * (time.perf_counter() - start))
        return found[1:]


def rate(steps: Iterator[int], kept: bool) -> Callable[[], float]:
    "Images per second of the next steps; `kept`: glibc keeps memory, as `fit` has it"
    def timed() -> float:
        with training._keep_memory(torch.device("cpu" if kept else "meta")):
            start = time.perf_counter()
            return sum(next(steps) for _ in range(STEPS)) / (time.perf_counter() - start)

    return timed


TRIED = (
    "tried and not kept: weights in blocks that fit the cache (no faster than 256 rows at once), float32 products with "
    "oneDNN's bf16 (they save both casts, and cost as much), huge pages (no faster), windows of 13 x 13 maps "
    "laid out (slower; at 9 x 9 and below it pays), `torch.compile` of clipping, AdamW and cast (faster, but it needs "
    "a C++ compiler and time to compile)"
)
MOVED = "gradients of the linear layers and bf16 copies of their weights"
OPTIMISER = (
    f"the optimiser's part holds {MOVED} (next row), which backward and forward had before; AdamW takes a root and two "
    "divisions for each of 57 M weights"
)


def compared(ours: Fit, folder: Path) -> Iterator[Row]:
    "`fit` at each side of its training against the tutorial's loop"
    contenders = {f"loop {side}": rate(tutorial(folder, side), False) for side in (FULL, SMALL)}
    contenders |= {f"fit {side}": rate(ours.steps(side), True) for side in ours.sides}
    turns = list(in_turns(contenders, ROUNDS))
    against = lambda fit, loop: [turn[f"fit {fit}"] / turn[f"loop {loop}"] for turn in turns]
    loop = "the tutorial's loop"
    yield row(f"training at {FULL} px: `fit` against {loop}", against(FULL, FULL), "times", least=4,
              why=f"{ours.milliseconds(FULL)}; {TRIED}")
    yield row(f"training at {SMALL} px, as `fit` begins, against {loop} at {FULL} px", against(SMALL, FULL), "times",
              least=7, why=ours.milliseconds(SMALL))
    yield row(f"training at {SMALL} px: `fit` against {loop} with images as small", against(SMALL, SMALL), "times")
    epochs, count = ours.settings.epochs, ours.sides
    spent = [sum(n / turn[f"fit {side}"] for side, n in count.items()) for turn in turns]  # for an image in each epoch
    whole = [epochs / turn[f"loop {FULL}"] / own for turn, own in zip(turns, spent)]
    sides = ", ".join(f"{n} at {side} px" for side, n in sorted(count.items()))
    yield row(f"training for {epochs} epochs: `fit` ({sides}) against {loop} at {FULL} px", whole, "times")
    for name in contenders:
        kind, side = name.split()
        kind = "`fit`" if kind == "fit" else loop
        yield row(f"training at {side} px: {kind}", [turn[name] for turn in turns], "images/s")
    yield row(f"training at {FULL} px: {FIXED}", ours.fixed(FULL), "ms", most=50,
              why=f"{ours.milliseconds(FULL)}; {OPTIMISER}; {TRIED}")
    with training._keep_memory(torch.device("cpu")):
        yield row(f"training at {FULL} px: of these, {MOVED}", ours.moved(), "ms")


def measure(data: Path | None) -> Iterator[Row]:
    train = images(data).part("train")
    train = train.take(np.random.default_rng(0).permutation(len(train))[:1024])
    ours = Fit(train)
    suited = training._suited_to_cpu(ours.state.model, ours.state.accelerator, ours.state.optimizer)
    with tempfile.TemporaryDirectory() as name, suited:
        yield from compared(ours, write_folder(train, Path(name)))


if __name__ == "__main__":
    run(measure)
