"""What the lab's stages cost on this machine, without training for an hour

    python bench/stages.py --data chest_xray.zip --slim models/slim.safetensors                # all
    python bench/stages.py --data chest_xray.zip --slim models/slim.safetensors slim-int8 evaluate

Stages that do not train run whole, on networks of the widths that they have in a run: untrained ones, and a slim
network that a run has left, for eight bits must cost a trained network little. Trainings are estimated: a few steps are
timed at every size that the images have, and multiplied. Seconds are those on the clock, and of the processor in
brackets.
"""

import argparse
import tempfile
import time
import warnings
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pneumoprune import lab as labs
from pneumoprune import training
from pneumoprune.alexnet import fold_gray, narrow_alexnet
from pneumoprune.compaction import compact
from pneumoprune.core import MODELS
from pneumoprune.data import XRays, load_xrays, split_validation
from pneumoprune.networks import load_network, save_network
from pneumoprune.pruning import prune_iteratively
from pneumoprune.training import TrainSettings, save_weights

STAGES = {
    "slim-int8": lambda lab, nets: labs.int8_stage(lab, nets["original"], nets["slim"]),
    "predictions": lambda lab, nets: labs.predictions_stage(lab),
    "evaluate": lambda lab, nets: labs.evaluate_stage(lab),
    "shortcuts": lambda lab, nets: labs.shortcuts_stage(lab),
    "sensitivity": lambda lab, nets: labs.sensitivity_stage(lab, nets["original"]),
    "amounts": lambda lab, nets: labs.amounts_stage(lab, nets["original"]),
}
STEPS, FIRST = 6, 2  # timed at each size; those in which memory and caches get warm do not count


def training_seconds(model, train: XRays, val: XRays, settings: TrainSettings, teacher=None) -> float:
    "Seconds of all epochs: the median step at each size of the images, and the validation behind each epoch"
    accelerator = training._accelerator(settings)
    state = training._Training(model, train, settings, accelerator, teacher)
    sides = [settings.side(epoch, train.size) for epoch in range(settings.epochs)]
    each = {}
    suited = training._suited_to_cpu(model, accelerator, state.optimizer)
    with suited, training._keep_memory(accelerator.device):
        for side in set(sides):
            state.net.train()
            times = []
            for images, labels, numbers, whole in islice(training._batches(state, slice(None), 0), STEPS + FIRST):
                start = time.perf_counter()
                training._step(state, training._augmented(images, numbers, side, settings), labels, whole)
                times.append(time.perf_counter() - start)
            start = time.perf_counter()
            training.predict(state.averaged, val.images[:128], side=side)
            validated = (time.perf_counter() - start) * len(val) / 128
            each[side] = float(np.median(times[FIRST:])) * state.steps + validated
    return sum(each[side] for side in sides)


def trainings(lab, nets) -> dict[str, float]:
    "Seconds of the trainings of each stage; the rounds of slimming as if every second one had the widths of the next"
    settings, train, val = lab.settings, lab.xrays.part("train"), lab.xrays.part("val")
    found, example = {"original": training_seconds(nets["original"], train, val, settings.original)}, labs._example(lab)
    once = replace(settings.masked, epochs=settings.masked.epochs // settings.rounds)
    rounds = []
    prune_iteratively(narrow_alexnet(settings.conv, settings.linear, seed=1),
                      lambda model, _: rounds.append(training_seconds(compact(model, example), train, val, once)),
                      rounds=settings.rounds, kind=settings.kind)  # fmt: skip
    found["masked"] = sum(rounds)
    slim, teacher = settings.slim, nets["compacted"]
    widths = [(64, 160, 304, 256, 128, 2048), (64, 96, 152, 224, 128, 1024), (48, 80, 120, 96, 64, 384)]
    each = [training_seconds(narrow_alexnet(w[:5], (w[5], w[5]), planes=1, seed=0), train, val, slim.train, teacher)
            for w in widths]  # fmt: skip
    found["slim"] = sum(each) + 4 * each[-1] + training_seconds(nets["slim"], train, val, slim.final)
    return found


def stand_ins(lab, slim: Path) -> dict[str, torch.nn.Module]:
    "Networks and predictions as the stages leave them, but for `slim` untrained"
    original = narrow_alexnet(lab.settings.conv, lab.settings.linear, seed=0).eval()
    masked = narrow_alexnet(lab.settings.conv, lab.settings.linear, seed=0).eval()
    prune_iteratively(masked, lambda *_: None, rounds=lab.settings.rounds, kind=lab.settings.kind)
    nets = {"original": original, "masked": masked, "compacted": compact(masked, labs._example(lab)),
            "slim": load_network(slim) if slim else fold_gray(narrow_alexnet((16, 16, 24, 32, 16), (32, 144), seed=0))}
    for name, net in nets.items():
        (save_weights if name == "masked" else save_network)(net, lab.weights(name))
    rng, parts = np.random.default_rng(0), labs._parts(lab)
    tables = [pd.DataFrame({"split": split, "name": part.names, "patient": part.patients, "label": part.labels}
                           | {name: (part.labels + rng.random(len(part))) / 2 for name in MODELS})
              for split, part in parts.items()]  # fmt: skip
    pd.concat(tables).to_csv(lab.folder / "predictions.csv", index=False)
    return nets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(["training", *STAGES]))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--slim", type=Path, help="a trained slim network, .safetensors")
    options = parser.parse_args()
    if unknown := set(options.stages) - {"training", *STAGES}:
        parser.error(f"no stage {sorted(unknown)[0]}; choose from training, {', '.join(STAGES)}")
    warnings.simplefilter("ignore")
    settings = labs.lab_settings()
    xrays = split_validation(load_xrays(options.data, settings.size), settings.validation, seed=settings.seed)
    wanted = options.stages or ["training", *STAGES]
    with tempfile.TemporaryDirectory() as folder:
        lab = labs.Lab(xrays, settings, Path(folder))
        nets = stand_ins(lab, options.slim)
        if "evaluate" in wanted and "slim-int8" not in wanted:
            wanted = ["slim-int8", *wanted]
        total = 0.0
        if "training" in wanted:
            for name, seconds in trainings(lab, nets).items():
                print(f"{name:12} {seconds:6.0f} s, estimated", flush=True)
                total += seconds
        for name, stage in STAGES.items():
            if name not in wanted:
                continue
            start, spent = time.perf_counter(), time.process_time()
            stage(lab, nets)
            seconds = time.perf_counter() - start
            print(f"{name:12} {seconds:6.0f} s ({time.process_time() - spent:.0f})", flush=True)
            total += seconds
        print(f"{'together':12} {total:6.0f} s")


if __name__ == "__main__":
    main()
