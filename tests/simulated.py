"A run that never happened, of the form a real one has: for tests, never for results"

import copy
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd

from pneumoprune.core import MODELS, write_json
from pneumoprune.run import Run, summarise

TYPICAL = {  # parameters and MACs in millions, size and file in MB, milliseconds at batch 1, engine
    "original": (57.01, 714.0, 217.5, 217.5, 29.0, "pytorch"),
    "masked": (57.01, 714.0, 434.9, 434.9, 150.0, "pytorch"),
    "compacted": (3.1, 150.0, 11.9, 11.9, 6.0, "pytorch"),
    "slim": (0.16, 21.0, 0.62, 0.63, 1.6, "pytorch"),
    "slim-int8": (0.16, 21.0, 0.17, 0.18, 0.5, "onnxruntime"),
}
LAYERS = tuple(f"features.{i}" for i in (0, 3, 6, 8, 10)) + tuple(f"classifier.{i}" for i in (1, 4, 6))
OUTPUTS = (64, 192, 384, 256, 256, 4096, 4096, 2)
INPUTS = (3, 64, 192, 384, 256, 9216, 4096, 4096)


def simulated_run(
    seed: int = 0,  # another seed, another run: every number differs
    *,
    models: Sequence[str] = MODELS,  # the networks in it
    synthetic: bool = True,  # whether its images are phantoms
    progression: Sequence = (),  # image sizes of the first trainings: pairs (share of the epochs, side)
    seeds: int = 1,  # trainings of the whole chain: seed 0 is this run, the others are folders in it
    external: bool = False,  # whether it has images of another hospital
    folder: str | Path | None = None,  # write it there as well, as a run folder
) -> Run:
    "A whole run, made of random numbers"
    rng = np.random.default_rng(seed)
    models, epochs, rounds = [name for name in MODELS if name in models], 20 + seed % 7, 3 + seed % 3
    counts = {
        split: {"NORMAL": normal + int(rng.integers(1, 20)), "PNEUMONIA": ill + int(rng.integers(1, 20))}
        for split, normal, ill in (("train", 300, 700), ("val", 54, 118), ("test", 70, 120))
    }
    others = {"external": {"NORMAL": 90, "PNEUMONIA": 80}} if external else {}
    predictions = _predictions(rng, models, counts | others, shifts=1 + seed % 3, seeds=seeds)
    summary = summarise(predictions, resamples=200 + seed)
    times, whole = _times(rng, models, sum(counts["test"].values()))
    for name in models:
        one = times[(times["model"] == name) & (times["threads"] == 1)].groupby("batch")["milliseconds"].median()
        factor = 1 + 0.1 * rng.random()
        parameters, macs, size, file, *_ = TYPICAL[name]
        summary["models"][name] |= {
            "parameters": int(parameters * 1e6 * factor), "macs": int(macs * 1e6 * factor),
            "size_mb": size * factor, "file_mb": file * factor,
            "latency_ms": {f"batch {batch}": ms for batch, ms in one.items()},
            "inference_s": whole[whole["model"] == name]["seconds"].median(),
        }  # fmt: skip
    info = _info(rng, seed, counts, synthetic, epochs, rounds, progression) | _external(rng, others)
    info["settings"]["seeds"] = seeds
    tables = _chain(rng, seed, models, epochs, rounds, info, summary)
    tables |= {"predictions": predictions, "latency": times, "inference": whole, "sensitivity": _sensitivity(rng)}
    tables["shortcuts"] = _shortcuts(rng, predictions)
    tables["amounts"] = _quantised(rng, info, summary) if "slim-int8" in models else pd.DataFrame()
    folder = None if folder is None else Path(folder)
    if folder:
        _write(folder, info, tables)
        write_json(folder / "summary.json", summary)
    chains = [_seed(rng, k, models, epochs, rounds, info, predictions, folder) for k in range(1, seeds)]
    return Run(folder or Path(), info, summary=summary, earlier=pd.DataFrame(), **tables, **_as_seeds(chains))


def _as_seeds(chains) -> dict:
    "The argument of `Run` for further seeds"
    return {"seeds": tuple(chains)} if "seeds" in {field.name for field in fields(Run)} else {}


def _write(folder: Path, info: dict, tables: dict) -> None:
    write_json(folder / "run.json", info)
    for name, table in tables.items():
        if len(table):
            table.to_csv(folder / f"{name}.csv", index=False)


def _chain(rng, seed, models, epochs, rounds, info, summary) -> dict[str, pd.DataFrame]:
    "What the training of every network leaves"
    trained = [name for name in models if name in ("original", "masked", "slim")]
    pruning = _pruning(rng, rounds) if "masked" in models else pd.DataFrame()
    return {
        "history": _history(rng, trained, epochs, rounds), "pruning": pruning,
        "compaction": _compaction(pruning) if "compacted" in models else pd.DataFrame(),
        "rounds": _slimmed(rng, seed, epochs, info, summary) if "slim" in models else pd.DataFrame(),
    }  # fmt: skip


def _seed(rng, number, models, epochs, rounds, info, predictions, folder) -> Run:
    "The chain of a further seed: trained and predicted, but neither timed nor judged"
    told = copy.deepcopy(info) | {"seed": number}
    nothing = {name: pd.DataFrame() for name in ("latency", "inference", "sensitivity", "amounts", "earlier")}
    tables = _chain(rng, number, models, epochs, rounds, told, {"models": {name: {} for name in models}})
    own = {f"{name}-seed-{number}": name for name in models}
    tables["predictions"] = predictions[["split", "name", "patient", "label", *own]].rename(columns=own)
    place = folder / f"seed-{number}" if folder else Path()
    if folder:
        _write(place, told, tables)
    return Run(place, told, summary={}, **tables, **nothing)


def _external(rng, others) -> dict:
    "What run.json says of the images of another hospital"
    if not others:
        return {"external": None}
    counts = others["external"]
    return {"external": {
        "name": "elsewhere.zip", "fingerprint": f"{rng.integers(2**62):064x}", "images": sum(counts.values()),
        "counts": counts, "patients": sum(counts.values()) // 2, "unreadable": [], "left_out": [], "notes": [],
    }}  # fmt: skip


def _predictions(rng, models, counts, shifts, seeds) -> pd.DataFrame:
    "Validation, clean and under up to three shifts, test, and the other hospital; masked and compacted agree"
    frames = []
    for split in [split for split in counts if split != "train"]:
        label = np.repeat([0, 1], list(counts[split].values()))
        kind = np.where(rng.random(len(label)) < 0.6, "bacteria", "virus")
        folder = "train" if split == "val" else split
        names = [
            f"{folder}/PNEUMONIA/person{i // 2}_{k}_{i}.jpeg" if y else f"{folder}/NORMAL/IM-{i // 2:04d}-{i:04d}.jpeg"
            for i, (y, k) in enumerate(zip(label, kind))
        ]
        patients = [f"{split}{y}-{i // 2:04d}" for i, y in enumerate(label)]
        ease = {"val": 2.0, "test": 1.6, "external": 0.2}[split]
        latent = ease * (2 * label - 1) + rng.normal(0, 1, len(label)) - 0.3 * (kind == "virus") * label
        scores = {}
        for ending in ("", *(f"-seed-{number}" for number in range(1, seeds))):
            training = rng.normal(0, 0.3, len(label)) if ending else 0  # what differs from seed to seed
            for name in models:
                noise = rng.normal(0, {"original": 0.1, "slim-int8": 0.3}.get(name, 0.25), len(label))
                scores[name + ending] = 1 / (1 + np.exp(-1.8 * (latent + training + noise)))
            if "compacted" in models:  # nothing but the order of summation differs
                near = scores[f"masked{ending}"] + 1e-8 * rng.normal(size=len(label))
                scores[f"compacted{ending}"] = np.clip(near, 0, 1)
        frame = pd.DataFrame({"split": split, "name": names, "patient": patients, "label": label} | scores)
        frames.append(frame)
        for shift in ("exposure", "noise", "crop")[:shifts] if split == "val" else ():
            moved = {name: values ** rng.uniform(0.8, 1.25) for name, values in scores.items()}
            moved |= {name: moved[name.replace("compacted", "masked")] for name in moved if "compacted" in name}
            frames.append(frame.assign(split=f"val-{shift}", **moved))
    return pd.concat(frames, ignore_index=True)


def _shortcuts(rng, predictions) -> pd.DataFrame:
    "What texture says of each image of validation and test: a little of the label"
    part = predictions[predictions["split"].isin(["val", "test"])]
    texture = 1 / (1 + np.exp(-(2 * part["label"] - 1) - rng.normal(0, 1, len(part))))
    return pd.DataFrame({"split": part["split"], "name": part["name"], "texture": texture})


def _history(rng, names, epochs, rounds) -> pd.DataFrame:
    "Learning curves; accuracy falls after every pruning and recovers"
    frames = []
    for name in names:
        first, time, each = name == "original", np.arange(epochs), epochs / rounds
        dip = 0.0 if first else 0.06 * np.exp(-3 * (time % each) / each)
        accuracy = 0.97 - (0.3 if first else 0.06) * np.exp(-5 * time / epochs) - dip
        noise = rng.normal(0, 0.004 if first else 0.012, (4, epochs))
        frames.append(pd.DataFrame({
            "model": name, "epoch": time + 1,
            "train_loss": 1.3 * (1 - accuracy) + 0.12 + abs(noise[0]), "train_accuracy": accuracy - abs(noise[1]),
            "val_loss": 1.5 * (1 - accuracy) + 0.1 + abs(noise[2]), "val_accuracy": accuracy + noise[3] / 2,
            "val_auc": 1 - (1 - accuracy) / 4, "seconds": 60 + rng.normal(0, 2, epochs),
        }))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def _times(rng, models, images) -> tuple[pd.DataFrame, pd.DataFrame]:
    "Latency by batch and threads, and the time of the whole test set"
    rows, whole = [], []
    for name in models:
        *_, ms, engine = TYPICAL[name]
        ms *= 1 + 0.1 * rng.random()
        for batch, factor in ((1, 1.0), (32, 14.0)):
            for threads in (1, 2):
                scatter = np.exp(abs(rng.normal(0, 0.05, 9)))
                middle = ms * factor / threads**0.8
                rows += [(name, engine, batch, threads, r, middle * s) for r, s in enumerate(scatter)]
        each = [ms * 14 / 32 * (1 + 0.01 * r) for r in range(3)]
        whole += [(name, engine, 32, 1, r, images * one / 1000, one) for r, one in enumerate(each)]
    keys = ["model", "engine", "batch", "threads", "repeat"]
    return (
        pd.DataFrame(rows, columns=[*keys, "milliseconds"]),
        pd.DataFrame(whole, columns=[*keys, "seconds", "milliseconds_per_image"]),
    )


def _pruning(rng, rounds) -> pd.DataFrame:
    rows = []
    for number in range(1, rounds + 1):
        for layer, inputs, outputs in zip(LAYERS, INPUTS, OUTPUTS):
            conv = layer.startswith("features")
            left = max(1, round(inputs * (0.8 if conv else 0.6) ** number * (1 - 0.02 * rng.random())))
            weights = inputs * outputs * (9 if conv else 1)
            rows.append({
                "layer": layer, "type": "Conv2d" if conv else "Linear", "inputs": inputs, "inputs left": left,
                "outputs": outputs, "outputs left": outputs, "weights": weights,
                "weights left": round(weights * left / inputs), "sparsity": 1 - left / inputs, "round": number,
            })  # fmt: skip
    return pd.DataFrame(rows)


def _compaction(pruning) -> pd.DataFrame:
    last = pruning[pruning["round"] == pruning["round"].max()].reset_index(drop=True)
    left = last["inputs left"]
    return pd.DataFrame({
        "layer": last["layer"], "inputs_before": last["inputs"], "outputs_before": last["outputs"],
        "inputs_after": left, "outputs_after": [*left[1:5], left[5] // 36, *left[6:], 2], "kind": last["type"],
    })  # fmt: skip


def _sensitivity(rng) -> pd.DataFrame:
    amounts = (0.0, 0.2, 0.4, 0.6, round(0.8 + 0.05 * rng.integers(3), 2))
    rows = [(layer, amount, 0.99 - amount**3 * rng.uniform(0, 0.4)) for layer in LAYERS for amount in amounts]
    return pd.DataFrame(rows, columns=["layer", "amount", "auc"])


def _slimmed(rng, seed, epochs, info, summary) -> pd.DataFrame:
    "The path of the slimming rounds; its settings go into `info`, the chosen size into `summary`"
    steps = 6 + seed % 3
    share = np.geomspace(1, 0.05 + 0.002 * (seed % 9), steps)
    path = pd.DataFrame({
        "round": range(steps), "widths": ["-".join(str(max(4, int(w * s))) for w in OUTPUTS[:-1]) for s in share],
        "parameters": (57e6 * share**2).astype(int), "macs": ((650e6 + 3e6 * seed) * share**1.6).astype(int),
        "size_mb": 217.5 * share**2, "val_auc": 0.99 - 0.006 * (1 - share) ** 4 - rng.random(steps) * 1e-3,
        "seconds": 100 * share,
    })  # fmt: skip
    summary["models"]["slim"] |= {"parameters": int(path["parameters"].iloc[-2])}
    info["settings"]["slim"] = {
        "tolerance": 0.005 + 0.001 * (seed % 4), "train": {"epochs": 2 + seed % 3},
        "final": {"epochs": epochs, "distillation": 0.7 * (seed % 2)},
    }  # fmt: skip
    return path


def _quantised(rng, info, summary) -> pd.DataFrame:
    "The recipe at several amounts in 32 and 8 bits; what quantisation did goes into `info`, speed into `summary`"
    shares = np.array([0, 0.1, 0.2 + 0.02 * rng.integers(4), 0.4])
    auc = 0.99 - 0.5 * shares**2 - rng.random(4) * 1e-3
    info["quantization"] = {
        "method": "minmax", "float_layers": ["features.0"], "aware": False, "auc_float": rng.uniform(0.97, 0.99),
        "auc_int8": rng.uniform(0.97, 0.99), "agreement": rng.uniform(0.99, 1),
    }  # fmt: skip
    summary["speedups"] = {
        f"slim-int8 against original in {engine}": [ratio, 0.9 * ratio, 1.1 * ratio]
        for engine, ratio in zip(("pytorch", "onnxruntime"), rng.uniform(40, 90, 2).tolist())
    }
    return pd.DataFrame({
        "amount": shares, "AUC float32": auc, "AUC int8": auc - rng.random(4) * 1e-3,
        "file (MB) float32": 217 * (1 - shares) ** 2 + rng.random(),
        "file (MB) int8": 54 * (1 - shares) ** 2 + rng.random(),
    })  # fmt: skip


def _info(rng, seed, counts, synthetic, epochs, rounds, progression) -> dict:
    size = 192 + 32 * (seed % 3)
    train = {"epochs": epochs, "batch_size": 64 + 32 * (seed % 5), "lr": 1e-4 * (1 + seed % 6),
             "warmup": 1.0, "seed": seed}
    train["progression"] = list(progression)
    patients = {split: int(sum(classes.values()) * rng.uniform(0.4, 0.6)) for split, classes in counts.items()}
    return {
        "settings": {
            "size": size, "seed": seed, "limit": None, "validation": 0.15, "rounds": rounds, "kind": "geometric",
            "original": train, "masked": train, "resamples": 200 + seed, "repeats": 9,
        },
        "data": {
            "name": "phantoms" if synthetic else "chest_xray.zip", "fingerprint": f"{rng.integers(2**62):064x}",
            "synthetic": synthetic, "size": size, "images": sum(sum(c.values()) for c in counts.values()),
            "counts": counts, "patients": patients, "unreadable": [],
            "duplicate_groups": {split: int(rng.integers(9)) for split in counts},
        },
        "cpu": "a simulated processor", "threads": 1, "system": "Linux",
        "versions": {"python": "3.11.0", "torch": f"2.{9 + seed % 5}.0"},
        "seconds": {stage: float(rng.uniform(100, 2000)) for stage in ("original", "masked", "compacted", "evaluate")},
        "compaction": {
            "difference_float64": float(1e-14 * rng.random()), "difference_float32": float(1e-6 * rng.random()),
            "inputs_checked": 12 + seed,
        },
    }  # fmt: skip
