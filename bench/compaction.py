"""Seconds that `compact` takes, its proof included: three networks of torchvision, and residual networks of any depth

    python bench/compaction.py
"""

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torchvision
from common import Row, row, run
from torch import nn
from torch.nn.utils import prune

from pneumoprune import compaction
from pneumoprune.compaction import compact
from pneumoprune.pruning import prunable

GOALS = {"vgg16": 3.0, "resnet50": 1.5, "densenet121": 1.5}  # seconds
DEPTHS = (50, 100, 200, 400)


class Block(nn.Module):
    "A residual block of eight channels"

    def __init__(self):
        super().__init__()
        self.change = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                                    nn.Conv2d(8, 8, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.change(x))


def residual(depth: int) -> nn.Module:
    "A stem, so many blocks, and a classifier"
    blocks = [Block() for _ in range(depth)]
    return nn.Sequential(nn.Conv2d(3, 8, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def masked(model: nn.Module) -> nn.Module:
    "30 % of the inputs of every layer masked"
    for layer in prunable(model).values():
        if layer.weight.shape[1] > 1:
            prune.ln_structured(layer, "weight", amount=0.3, n=2, dim=1)
    return model.eval()


def seconds(model: nn.Module, size: int, repeats: int) -> list[float]:
    example, spent = torch.randn(2, 3, size, size), []
    for _ in range(repeats):
        start = time.perf_counter()
        compact(model, example)
        spent.append(time.perf_counter() - start)
    return spent


def running(model: nn.Module, size: int) -> str:
    "How much of the time the two networks run, to be compared"
    spent, answers = [], compaction._answers

    def timed(*arguments):
        start = time.perf_counter()
        found = answers(*arguments)
        spent.append(time.perf_counter() - start)
        return found

    with mock.patch.object(compaction, "_answers", timed):
        (whole,) = seconds(model, size, 1)
    return f"{100 * sum(spent) / whole:.0f} % of the time, both networks run for the comparison, in float64 and float32"


def measure(data: Path | None) -> Iterator[Row]:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    seconds(masked(residual(2)), 16, 1)  # what is imported at the first call
    for name, most in GOALS.items():
        model = masked(torchvision.models.get_model(name))
        yield row(f"`compact` of {name}", seconds(model, 224, 3), "s", most=most, why=running(model, 224))
    found = {depth: float(np.median(seconds(masked(residual(depth)), 16, 2))) for depth in DEPTHS}
    for depth, spent in found.items():
        yield row(f"`compact` of {depth} residual blocks", spent, "s")
    first, last = (found[depth] / depth for depth in (DEPTHS[0], DEPTHS[-1]))
    each = ", ".join(f"{1000 * spent / depth:.0f} ms at {depth}" for depth, spent in found.items())
    yield row(f"`compact`: a block of {DEPTHS[-1]} against one of {DEPTHS[0]}", last / first, "times", most=1.25,
              why=f"per block: {each}")


if __name__ == "__main__":
    run(measure)
