"""How the training was chosen: one change at a time, judged on validation patients alone.

    python bench/explore_training.py chest_xray.zip results/exploration.csv [--teacher compacted.safetensors]

A network of the shape that slimming arrives at (16-24-40-64-32, 64-144, one plane) is trained from scratch with one
choice changed in each row. The criterion is the mean AUC over the validation patients and the same under every
simulated shift (`shift_auc`); the AUC under the shift of aspect stands beside it. The test set is never looked at. A
file that exists is gone on with.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
from sklearn.metrics import roc_auc_score
from torch import nn

from pneumoprune.alexnet import narrow_alexnet
from pneumoprune.networks import load_network
from pneumoprune.core import atomic_path
from pneumoprune.data import load_xrays, split_validation
from pneumoprune.synthetic import shift_suite
from pneumoprune.slimming import SlimSettings, shift_auc
from pneumoprune.training import fit, predict

CONV, LINEAR = (16, 24, 40, 64, 32), (64, 144)
BASE = replace(SlimSettings().final, lr=1e-3, aspect=0.12)
VARIANTS = {  # name -> (changes of the training, dropout); with distillation, the teacher is asked
    "base: learning rate 0.001, dropout 0.2, aspect 0.12": ({}, 0.2),
    "aspect 0.3": ({"aspect": 0.3}, 0.2),
    "aspect 0.5": ({"aspect": 0.5}, 0.2),
    "aspect 0.7": ({"aspect": 0.7}, 0.2),
    "dropout 0.5": ({}, 0.5),
    "half the augmentation": ({"augment": 0.5}, 0.2),
    "augmentation 1.5 times as strong": ({"augment": 1.5}, 0.2),
    "no label smoothing": ({"label_smoothing": 0.0}, 0.2),
    "twice the learning rate": ({"lr": 2 * BASE.lr}, 0.2),
    "four times the learning rate": ({"lr": 4 * BASE.lr}, 0.2),
    "no averaged weights": ({"ema": 0.0}, 0.2),
    "full size from the start": ({"progression": ()}, 0.2),
    "five times the weight decay": ({"weight_decay": 0.1}, 0.2),
    "with teacher": ({"distillation": 0.7}, 0.2),
    "pooled, twice as many channels": ({}, 0.2),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--teacher", help="network saved by save_network")
    parser.add_argument("--only", nargs="*", help="rows to compute, by name")
    options = parser.parse_args()
    xrays = split_validation(load_xrays(options.data, 224), 0.15, seed=0)
    suite = shift_suite(xrays.part("val"))
    done = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame(columns=["variant"])
    for name, (changes, dropout) in VARIANTS.items():
        asked = "distillation" in changes
        unwanted = options.only and name not in options.only
        if unwanted or name in set(done["variant"]) or (asked and not options.teacher):
            continue
        conv = [2 * width for width in CONV] if "twice as many channels" in name else CONV
        network = narrow_alexnet(conv, LINEAR, planes=1, dropout=dropout, seed=0)
        if "pooled" in name:
            network = nn.Sequential(nn.AvgPool2d(2), network)
        teacher = load_network(options.teacher) if asked else None
        history = fit(network, xrays, replace(BASE, **changes), name=name, teacher=teacher)
        val = xrays.part("val")
        row = {"variant": name, "val_auc": roc_auc_score(val.labels, predict(network, val)),
               "aspect_auc": roc_auc_score(val.labels, predict(network, suite["aspect"])),
               "shift_auc": shift_auc(network, suite), "seconds": history["seconds"].sum()}
        if options.out.exists():  # another process may have added rows
            done = pd.read_csv(options.out)
        done = pd.concat([done, pd.DataFrame([row])], ignore_index=True)
        with atomic_path(options.out) as draft:
            done.to_csv(draft, index=False)
        print(done.round(4).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
