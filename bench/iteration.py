"""Six rounds of pruning with fine-tuning: dead channels cut out between the rounds, and masks left in place, in turns

    python bench/iteration.py --data chest_xray.zip

Both do the same to AlexNet: the published recipe, then some steps of training, six times. Left in place, each step
computes with all weights and multiplies every weight by its mask. Otherwise `compact` cuts, the small network is
trained, and `restore` writes its weights back into the masked one. The steps are as many as a sixth of 25 epochs of the
reference run has to each round, a tenth of them timed; cutting and writing back are counted in full, by a tenth each.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import Row, images, row, run

from pneumoprune import training
from pneumoprune.alexnet import alexnet, copy_network
from pneumoprune.compaction import compact, restore
from pneumoprune.data import XRays
from pneumoprune.lab import LabSettings
from pneumoprune.pruning import apply_recipe

ROUNDS, STEPS, SIZE, BATCH = 6, 8, 224, 64
WHOLE = 25 * 69 / ROUNDS  # steps of a round of the reference run: 25 epochs of 69 batches


def per_step(model: torch.nn.Module, xrays: XRays) -> float:
    "Seconds of one step of `fit`, the first two not counted"
    settings = replace(LabSettings().masked, device="cpu")
    state = training._Training(model, xrays, settings, training._accelerator(settings), None)
    state.net.train()
    with training._suited_to_cpu(state.model, state.accelerator, state.optimizer):
        spent = [_one_step(state, xrays, settings, number) for number in range(STEPS)]
    training._finish(state, model, None, {}, [])
    return float(np.median(spent[2:]))


def _one_step(state, xrays: XRays, settings: training.TrainSettings, number: int) -> float:
    "Seconds of a step"
    start = time.perf_counter()
    batch, numbers = torch.randperm(len(xrays))[:BATCH], torch.rand(BATCH, len(training._CHOICES))
    augmented = training._augmented(state.take(batch), numbers, SIZE, settings)
    training._step(state, augmented, state.labels[batch], (float(BATCH), BATCH))
    if number % training._pause(settings) == 0:
        training._average(state, training._pause(settings))
    return time.perf_counter() - start


def measure(data: Path | None) -> Iterator[Row]:
    train = images(data).part("train")
    example = torch.tensor(train.images[:16]).float()
    masked, ratios, cutting, totals = alexnet(seed=0), [], [], {"masks left in place": 0.0, "compacted": 0.0}
    with training._keep_memory(torch.device("cpu")):
        for _ in range(ROUNDS):
            apply_recipe(masked)
            start = time.perf_counter()
            small = compact(masked, example)
            restore(small, copy_network(masked))
            cutting.append(time.perf_counter() - start)
            steps = {"masks left in place": per_step(copy_network(masked), train), "compacted": per_step(small, train)}
            restore(small, masked)
            totals["masks left in place"] += WHOLE * steps["masks left in place"]
            totals["compacted"] += WHOLE * steps["compacted"] + cutting[-1]
            ratios.append(steps["masks left in place"] / steps["compacted"])
    faster = totals["masks left in place"] / totals["compacted"]
    rounds = ", ".join(f"{ratio:.1f}" for ratio in ratios)
    yield row("pruning in six rounds: compacted between them against masks left in place", faster, "times", least=3,
              why=f"times as fast, round by round: {rounds}")
    yield row("pruning in six rounds: `compact` and `restore`", cutting, "s")
    for kind, seconds in totals.items():
        yield row(f"pruning in six rounds: {kind}, all steps of the reference run", seconds / 60, "min")


if __name__ == "__main__":
    run(measure)
