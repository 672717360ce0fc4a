"""A longer training and a committee of teachers, judged on series of pictures that the networks never saw.

    python bench/explore_series.py chest_xray.zip results/series.csv [--only 0 1]

The archive names four series: two of healthy children (IM, NORMAL2-IM) and two of ill ones (bacteria, virus). A
network is trained on one of each and judged on the other two, which is harder than other patients of the same series:
there one training differs from another, while validation patients hardly tell them apart. `auc` is that on pictures as
they are, `shift_auc` the mean over these and the same under every simulated shift. All of it happens on training
patients; the test set is never looked at. A file that exists is gone on with.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from pneumoprune.alexnet import narrow_alexnet
from pneumoprune.core import atomic_path
from pneumoprune.data import load_xrays, patient_of
from pneumoprune.synthetic import shift_suite
from pneumoprune.slimming import SlimSettings
from pneumoprune.training import fit, predict

# the rest is trained on; two of the four pairs, since each takes a quarter of an hour on two cores
HELD_OUT = (("NORMAL2", "virus"), ("NORMAL2", "bacteria"))
SHORT = replace(SlimSettings().final, lr=1e-3)
LONG = replace(SHORT, epochs=30)
COMMITTEE, JUDGED = 6, 300  # networks; pictures of each class that judge


def network(shape, seed):
    "The shape that slimming arrives at in the reference run, or that of the round before, from scratch"
    conv, linear = {"slim": ((16, 16, 24, 32, 16), (32, 136)), "wider": ((16, 24, 40, 64, 32), (64, 144))}[shape]
    return narrow_alexnet(conv, linear, planes=1, dropout=0.2, seed=seed)


def series_of(name):
    "NORMAL2, IM, bacteria or virus"
    patient = patient_of(name)
    return "NORMAL2" if patient.startswith("NORMAL2") else "IM" if patient.startswith("IM") else patient.split("_")[1]


def hold_out(xrays, series):
    "Training patients only: those of `series` become validation, as many of each class"
    pool = xrays.take(xrays.split != "test")
    held = np.isin([series_of(name) for name in pool.names], series)
    rng = np.random.default_rng(0)
    judges = [rng.permutation(np.flatnonzero(held & (pool.labels == label)))[:JUDGED] for label in (0, 1)]
    split = np.where(held, "left", "train")
    split[np.concatenate(judges)] = "val"
    pool = replace(pool, split=split)
    return pool.take(pool.split != "left")


def judge(suite, scores):
    "AUC on clean pictures, and the mean over all shifts"
    aucs = {kind: roc_auc_score(part.labels, scores[kind]) for kind, part in suite.items()}
    return {"auc": aucs["clean"], "shift_auc": float(np.mean(list(aucs.values())))}


def rows(xrays):
    "The ways of training, one after the other"
    suite = shift_suite(xrays.part("val"))
    scores = lambda net: {kind: predict(net, part) for kind, part in suite.items()}
    members = []
    for seed in range(COMMITTEE):
        members.append(network("wider", seed))
        fit(members[-1], xrays, replace(SHORT, seed=seed), name=f"committee {seed + 1}")
    answers = [scores(member) for member in members]
    singles = pd.DataFrame([judge(suite, answer) for answer in answers])
    yield "one network of the committee, mean", singles.mean().to_dict()
    yield "the committee's mean answer", judge(suite, {kind: np.mean([a[kind] for a in answers], 0) for kind in suite})
    ways = {"12 epochs": (SHORT, None), "30 epochs": (LONG, None),
            "30 epochs, taught by the committee": (replace(LONG, distillation=1.0), members)}
    for name, (settings, teacher) in ways.items():
        student = network("slim", 100)
        fit(student, xrays, replace(settings, seed=100), name=name, teacher=teacher)
        yield name, judge(suite, scores(student))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", type=int, default=range(len(HELD_OUT)), help="pairs, by number")
    options = parser.parse_args()
    xrays = load_xrays(options.data, 224)
    read = lambda: pd.read_csv(options.out) if options.out.exists() else pd.DataFrame(columns=["held_out"])
    for number in options.only:
        held_out = " + ".join(HELD_OUT[number])
        if held_out in set(read()["held_out"]):
            continue
        judged = rows(hold_out(xrays, HELD_OUT[number]))
        found = [{"held_out": held_out, "variant": name, **aucs} for name, aucs in judged]
        table = pd.concat([read(), pd.DataFrame(found)], ignore_index=True)  # another process may have added rows
        with atomic_path(options.out) as draft:
            table.to_csv(draft, index=False)
        print(table.round(4).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
