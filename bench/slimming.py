"""Slimming by L2 beside torch-pruning's group-norm pruner and channels taken at random: same MACs, rounds and training

    pip install torch-pruning==1.6.1
    python bench/slimming.py chest_xray.zip --workers 15    # the trainings, on a GPU in ten minutes: slimming.csv
    python bench/slimming.py --show                         # the table of slimming.csv
    python bench/slimming.py                                # a part of `make bench`: rows from slimming.csv
    python bench/slimming.py chest_xray.zip --limit 200 --epochs 1 --rounds 1 --seeds 1 --device cpu --out smoke.csv

For every seed one AlexNet is trained on training patients; 15 % of them, others for every seed, are held out. It goes
through the same rounds in each of these ways, and each round ends at the same number of MACs:

- `L2`: the groups, importances and costs of `pneumoprune.slimming`, as `slim` uses them, channel by channel;
- `random`: the same with random importances;
- `group norm`: `GroupNormPruner` as it comes, the same share of every layer;
- `group norm, global`: channels of all layers ranked together, and `max_pruning_ratio` as our floor has it. That limit
  may end a round before its MACs are reached;
- `group norm, regularised`: the same, and its regularisation works in every training before a pruning.

Training is that of `slim`: `SlimSettings.train` after each round, the trained AlexNet as teacher, and 12 epochs of
`SlimSettings.final` at the end. `auc` is the mean over clean images and every simulated shift of the patients held
out, `clean` that of clean images. Test images are never read.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from choose_training import _one_thread, _shift, training_images
from common import Row, row
from common import run as part_of_bench
from torch import nn

from pneumoprune.alexnet import alexnet, copy_network, count_parameters, fold_gray
from pneumoprune.data import XRays, split_validation
from pneumoprune.evaluation import shift_aucs
from pneumoprune.graph import Group, channel_groups
from pneumoprune.pruning import prunable
from pneumoprune.slimming import SlimSettings, _uses, channel_costs, remove_channels, score_channels, weakest
from pneumoprune.synthetic import SHIFTS
from pneumoprune.training import TrainSettings, fit, predict

CSV = Path(__file__).parent / "slimming.csv"
SIZE, BUDGET, ROUNDS = 224, 14e6, 5  # MACs of one image: the budget of the reference run
LAST = 12  # epochs of the last training, fewer than the lab's
FLOOR = 0.5  # of the channels of a layer, so many stay in each round
KINDS = "clean", *SHIFTS


# --- a smaller network of at most so many MACs


def macs(model: nn.Module, uses: dict[str, int]) -> float:
    "Of one image, by how often each layer uses a weight"
    return sum(layer.weight.numel() * uses[name] for name, layer in prunable(model).items())


def macs_left(model: nn.Module, groups: list[Group], removed: list[np.ndarray], uses: dict[str, int]) -> float:
    "Of one image, once these channels are gone"
    left = {name: float(layer.weight.numel() * uses[name]) for name, layer in prunable(model).items()}
    for group, channels in zip(groups, removed, strict=True):
        for name in (*group.producers, *group.consumers):
            left[name] *= 1 - len(channels) / group.width
    return sum(left.values())


def ours(model: nn.Module, target: float, seed: int, device: str, *, criterion: str) -> nn.Module:
    "The channels of least importance per root of cost, as many as the MACs ask for"
    example = torch.randn(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    groups, uses = channel_groups(model, example), _uses(model, (1, 1, SIZE, SIZE))
    scores = score_channels(model, groups, criterion, seed=seed)
    chosen = partial(weakest, scores, channel_costs(model, groups, (1, 1, SIZE, SIZE)), floor=FLOOR, minimum=8)
    low, high = 1e-6, 1 - 1e-6  # shares to keep: enough MACs go at the first, too few at the other
    for _ in range(16):
        middle = (low + high) / 2
        enough = macs_left(model, groups, chosen(keep=middle), uses) <= target
        low, high = (middle, high) if enough else (low, middle)
    return remove_channels(model, groups, chosen(keep=low), example)


def pruner(model: nn.Module, **settings):
    "torch-pruning's, for a network and the device that it is on"
    import torch_pruning as tp

    *_, last = prunable(model).values()
    example, importance = torch.zeros(1, 1, SIZE, SIZE).to(last.weight), tp.importance.GroupMagnitudeImportance(p=2)
    return tp.pruner.GroupNormPruner(model, example, importance=importance, ignored_layers=[last], **settings)


def group_norm(model: nn.Module, target: float, seed: int, device: str, **settings) -> nn.Module:
    "Steps of the pruner, a hundredth of the channels each, until the MACs are reached"
    model, uses = copy_network(model).to(device), _uses(model, (1, 1, SIZE, SIZE))
    theirs = pruner(model, pruning_ratio=0.9, iterative_steps=90, **settings)
    while macs(model, uses) > target and theirs.current_step < theirs.iterative_steps:
        theirs.step()
    return model.cpu()


GLOBAL = partial(group_norm, global_pruning=True, max_pruning_ratio=1 - FLOOR)
WAYS: dict[str, Callable[..., nn.Module]] = {
    "L2": partial(ours, criterion="l2"),
    "random": partial(ours, criterion="random"),
    "group norm": group_norm,
    "group norm, global": GLOBAL,
    "group norm, regularised": GLOBAL,
}
REGULARISED = "group norm, regularised"


@contextmanager
def regularised(model: nn.Module) -> Iterator[None]:
    "torch-pruning's regularisation joins the gradients of every step, once the first layer's is there: the last of all"
    theirs, first = pruner(model), next(iter(prunable(model).values()))
    handle = first.weight.register_post_accumulate_grad_hook(lambda _: theirs.regularize(model))
    yield
    handle.remove()
    assert theirs.cnt, "the regularisation never took part"


# --- images, and what is measured on them


def prepare(archive: Path, limit: int | None, folder: Path, workers: int) -> None:
    "Training images, as they are and shifted, as files that every process maps; labels and patients beside them"
    xrays = training_images(archive, folder, limit, workers)
    table = pd.DataFrame({"name": xrays.names, "label": xrays.labels, "patient": xrays.patients})
    table.to_csv(folder / "table.csv", index=False)
    with multiprocessing.get_context("spawn").Pool(min(workers, len(SHIFTS)), initializer=_one_thread) as pool:
        pool.starmap(_shift, [(folder, kind) for kind in SHIFTS])


def images(folder: Path, seed: int) -> XRays:
    "Training images, mapped, with the validation patients of a seed"
    table = pd.read_csv(folder / "table.csv", dtype={"name": str, "patient": str})
    columns = [table[name].to_numpy() for name in ("label", "patient", "name")]
    everything = XRays(np.load(folder / "clean.npy", mmap_mode="r"), *columns, np.full(len(table), "train"), "", "")
    return split_validation(everything, seed=seed)


def measured(model: nn.Module, folder: Path, xrays: XRays, device: str) -> dict:
    "Size, arithmetic and validation AUC of a network"
    held_out, parts = xrays.split == "val", []
    for kind in KINDS:
        p = predict(model, np.load(folder / f"{kind}.npy", mmap_mode="r")[held_out], device=device)
        split = "val" if kind == "clean" else f"val-{kind}"
        parts.append(pd.DataFrame({"split": split, "label": xrays.labels[held_out], "network": p}))
    aucs = shift_aucs(pd.concat(parts), ["network"])["network"]
    widths = "-".join(str(layer.weight.shape[0]) for layer in prunable(model).values())
    count = macs(model, _uses(model, (1, 1, SIZE, SIZE)))
    return {"macs": int(count), "parameters": count_parameters(model), "widths": widths, "auc": aucs.mean(),
            "clean": aucs["val"]}


# --- trainings, each in a process of its own


def original(folder: Path, seed: int, epochs: int | None, device: str) -> Path:
    "Train the AlexNet of a seed; the file of its weights"
    path = folder / f"original-{seed}.pt"
    settings = TrainSettings(seed=seed, device=device)
    model = alexnet(seed=seed)
    fit(model, images(folder, seed), replace(settings, epochs=epochs or settings.epochs))
    torch.save(model.state_dict(), path)
    return path


def chain(folder: Path, way: str, seed: int, rounds: int, epochs: int | None, device: str) -> list[dict]:
    "All rounds of one way, and the training at the end: a row for each network"
    start, xrays, rows, short = time.perf_counter(), images(folder, seed), [], SlimSettings()
    place = "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"
    whole = alexnet()
    whole.load_state_dict(torch.load(folder / f"original-{seed}.pt", weights_only=True))
    model = teacher = fold_gray(whole.eval())
    full = macs(model, _uses(model, (1, 1, SIZE, SIZE)))

    def trained(settings: TrainSettings, number: int) -> None:
        settings = replace(settings, seed=seed + 1000 * number, device=device, epochs=epochs or settings.epochs)
        with regularised(model) if way == REGULARISED and number < rounds else nullcontext():
            fit(model, xrays, settings, teacher=teacher)

    def keep(stage: str) -> None:
        found = measured(model, folder, xrays, device)
        rows.append({"way": way, "seed": seed, "stage": stage} | found | {"seconds": time.perf_counter() - start})

    keep("0")
    for number in range(1, rounds + 1):
        model = WAYS[way](model, full * (BUDGET / full) ** (number / ROUNDS), seed + 1000 * number, place)
        trained(short.train, number)
        keep(str(number))
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = short.dropout
    trained(replace(short.final, epochs=LAST), rounds + 1)
    keep("final")
    return rows


def told(job: tuple) -> tuple[str, list[dict], str]:
    "The name of a training or a chain, its rows, and what went wrong: told by the main process, which goes on"
    warnings.simplefilter("ignore")
    folder, way, seed, rounds, epochs, device = job
    name = f"{way or 'original'}, seed {seed}"
    try:
        if way:
            return name, chain(*job), ""
        original(folder, seed, epochs, device)
        return name, [], ""
    except Exception as error:
        return name, [], f"{type(error).__name__}: {error}"


def run(options: argparse.Namespace) -> None:
    "Prepare, train the originals side by side, then all ways of all seeds; a chain's rows are written at its end"
    started, os.environ["TQDM_DISABLE"] = time.time(), "1"  # in all processes that are started from here
    old = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame({"way": [], "seed": []})
    have = set(zip(old["way"], old["seed"], strict=True))
    todo = [(way, seed) for seed in range(options.seeds) for way in WAYS if (way, seed) not in have]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(options.archive, options.limit, folder, options.workers)
        print(f"{time.time() - started:4.0f} s  prepared", flush=True)
        jobs = [[("", seed) for seed in sorted({seed for _, seed in todo})], todo]
        with multiprocessing.get_context("spawn").Pool(options.workers, initializer=_one_thread) as pool:
            for some in jobs:
                full = [(folder, *job, options.rounds, options.epochs, options.device) for job in some]
                for what, rows, wrong in pool.imap_unordered(told, full):
                    found = wrong or (f"auc {rows[-1]['auc']:.4f}" if rows else "trained")
                    print(f"{time.time() - started:4.0f} s  {what}: {found}", flush=True)
                    if rows:
                        old = pd.concat([old, pd.DataFrame(rows)]) if len(old) else pd.DataFrame(rows)
                        old.sort_values(["seed", "way", "stage"]).to_csv(options.out, index=False, float_format="%.7g")


# --- what came out


def differences(rows: pd.DataFrame, way: str) -> pd.Series:
    "How much higher the AUC of L2 is, seed by seed"
    auc = rows[rows["stage"] == "final"].set_index(["way", "seed"])["auc"]
    return (auc["L2"] - auc[way]).dropna()


def table(rows: pd.DataFrame) -> pd.DataFrame:
    "Per way, of the networks at the end: size, mean AUC with its standard deviation over seeds, and L2's lead"
    last, found = rows[rows["stage"] == "final"], []
    for way in WAYS:
        theirs, lead = last[last["way"] == way], differences(rows, way)
        if theirs.empty:
            continue
        entry = {"way": way, "seeds": len(theirs), "MACs, M": theirs["macs"].mean() / 1e6,
                 "parameters, M": theirs["parameters"].mean() / 1e6}
        for name in ("auc", "clean"):
            entry |= {name: theirs[name].mean(), f"{name} SD": theirs[name].std(ddof=1)}
        entry |= {"L2 minus this": lead.mean(), "SD": lead.std(ddof=1), "seed by seed": lead.round(4).tolist()}
        found.append(entry)
    return pd.DataFrame(found)


def measure(data: Path | None) -> Iterator[Row]:
    "Rows of `make bench`, from the trainings of slimming.csv: on two cores they would take a day"
    rows = pd.read_csv(CSV)
    final = rows[rows["stage"] == "final"]
    for way, theirs in final.groupby("way", sort=False):
        yield row(f"slimming to 14 M MACs, {way}: mean AUC, validation and its shifts", list(theirs["auc"]), "AUC")
    for way in WAYS:
        if way != "L2":
            lead = list(differences(rows, way))
            yield row(f"slimming to 14 M MACs: how much higher L2's AUC is than with {way}", lead, "AUC")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", nargs="?", type=Path, help="the real archive: only its training images are used")
    parser.add_argument("--out", type=Path, default=CSV, help="rows are added here; chains that are there are not run")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="the first rounds only")
    parser.add_argument("--limit", type=int, help="so many images")
    parser.add_argument("--epochs", type=int, help="of every training")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--show", action="store_true", help="print the table of --out")
    if not sys.argv[1:] or sys.argv[1] == "--data":
        part_of_bench(measure)
        sys.exit()
    options = parser.parse_args()
    if options.archive:
        run(options)
    pd.set_option("display.width", 200, "display.max_columns", 30)
    print(table(pd.read_csv(options.out)).round(4).to_string(index=False))
