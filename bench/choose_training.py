"""Which augmentation, which input and which batch: trainings compared on patients of the training set alone

    python bench/choose_training.py chest_xray.zip --aspects aspects.csv --workers 10 --seconds 240
    python bench/choose_training.py --show                # the table of choose_training.csv
    python bench/choose_training.py chest_xray.zip --limit 200 --epochs 1 --workers 2 --device cpu    # a smoke run
    python bench/choose_training.py --tell before=OLD after=results/reference     # choice_told.csv: what it changed

Four parts, in turns, so that a time limit leaves rows of all arms:

- `slim`: a network of slim's widths, trained from scratch as `SlimSettings.final` says, without a teacher, for 12
  epochs where an arm does not say otherwise. 5 folds by patient over all training patients.
- `original`: AlexNet at full width, as `TrainSettings` says. One split, 15 % of the patients.
- `crossed`: the same with the arms between which that one split decided, in the 5 folds of slim.
- `distant`: slim's network again, a fifth of the patients held out who look least like the others
  (`evaluation.distant_split`). It joined after the choice and decides nothing: it tells whether the choice holds where
  patients look different.

Criteria, of the patients held out, each the mean over clean images and every simulated shift: AUC over all pairs
(`auc`), AUC over the pairs in which texture (`texture`) or aspect ratio (`aspect`) points the wrong way. Both shortcuts
are cross-fitted over all training patients before any network is trained. `clean` is the AUC over all pairs of clean
images, `follows` the rank correlation of the network's score with the texture's within a class. Test images are never
read.

The rule, made before the first row was there. A row's value is the mean of `auc` and `texture`. The value of a seed is
the mean over its folds. An arm beats the base where the mean over seeds is higher by more than twice its standard error
(from the differences seed by seed) and `auc` is not lower by more than that. Of arms that beat the base, the best is
taken; one that is as good within a standard error and simpler (earlier in the list) is preferred. Else the base stays.
Arms that joined later (`LATER`, and the part `crossed`) are judged by the same rule.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
import zipfile
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path
from queue import Empty

import numpy as np
import pandas as pd
from PIL import Image

HERE = Path(__file__).parent
CSV, TOLD = HERE / "choose_training.csv", HERE / "choice_told.csv"
FOLDS = 5
INPUTS = {  # the side of the images, by what their pixels are averaged, how their files end
    "": (224, 1, ""), "pool-2": (224, 2, ""), "128px": (128, 1, ""), "160px": (160, 1, ""), "crop": (224, 1, "-crop"),
}  # fmt: skip

RESAMPLE = dict(resample=0.75)
SLIM = {  # arm -> input, changes of the settings; the simpler ones first
    "base": ("", {}),
    "resample": ("", RESAMPLE),
    "resample+jpeg+sharpen": ("", dict(resample=0.75, recode=0.5, sharpen=0.5)),
    "pool-2": ("pool-2", {}),
    "pool-2+resample": ("pool-2", RESAMPLE),
    "resample-0.15": ("", dict(resample=0.75, smallest=0.15)),
    "128px+resample": ("128px", RESAMPLE),
}
LATER = {"160px": ("160px", {}), "crop": ("crop", {}), "30-epochs": ("", dict(epochs=30))}
SLIM |= LATER
ORIGINAL = {
    "64@2e-4": {},
    "64@2e-4+resample": RESAMPLE,
    "128@3e-4": dict(batch_size=128, lr=3e-4),
    "128@3e-4+resample": dict(batch_size=128, lr=3e-4, **RESAMPLE),
}
CROSSED = {arm: ORIGINAL[arm] for arm in ("64@2e-4", "64@2e-4+resample")}
DISTANT = {arm: SLIM[arm] for arm in ("base", "resample", "30-epochs")}
DISTANT["30-epochs+resample"] = ("", dict(epochs=30, **RESAMPLE))
ARMS = SLIM | DISTANT  # of slim's network
PARTS = {"slim": SLIM, "original": ORIGINAL, "crossed": CROSSED, "distant": DISTANT}
SLIMS = "slim", "distant"  # the parts that train slim's network
HELD_OUT = {"original": "held_out", "distant": "distant"}  # the column that says who is; of the other parts a fold
# slim's channels and units in the run that `results/reference` held when the choice was made
WIDTHS = (16, 16, 24, 32, 16), (32, 144)


def jobs(seeds: int) -> list[tuple[str, str, int, int]]:
    "Part, arm, seed, fold: for each seed all folds of slim, arm by arm; the original in one split, in all; the distant"
    todo = []
    for seed in range(seeds):
        todo += [("slim", arm, seed, fold) for fold in range(FOLDS) for arm in SLIM]
        todo += [("original", arm, seed, 0) for arm in ORIGINAL]
        todo += [("crossed", arm, seed, fold) for fold in range(FOLDS) for arm in CROSSED]
        todo += [("distant", arm, seed, 0) for arm in DISTANT]
    return todo


def without_test(archive: Path, folder: Path) -> Path:
    "A copy of the archive with two blanks in place of its test images: the loader asks for some"
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(folder / "train.zip", "w") as copy:
        for name in whole.namelist():
            if "train" in name.split("/")[:-1]:
                copy.writestr(name, whole.read(name))
        for place, grey in (("NORMAL/blank-1.png", 0), ("PNEUMONIA/blank-2.png", 255)):
            Image.new("L", (224, 224), grey).save(blank := BytesIO(), "PNG")
            copy.writestr(f"chest_xray/test/{place}", blank.getvalue())
    return folder / "train.zip"


def training_images(archive: Path, folder: Path, limit: int | None, workers: int | None = None):
    "The training images of an archive, or about `limit` of them by patient; kept in clean.npy of the folder"
    from pneumoprune.data import load_xrays

    xrays = load_xrays(without_test(archive, folder), cache=False, workers=workers).part("train")
    if limit:
        patients = np.random.default_rng(0).permutation(np.unique(xrays.patients))
        rank = {patient: place for place, patient in enumerate(patients)}
        xrays = xrays.take(np.sort(np.argsort([rank[p] for p in xrays.patients], kind="stable")[:limit]))
    assert set(xrays.split) == {"train"}, "test images must not be here"
    np.save(folder / "clean.npy", xrays.images)
    return xrays


def prepare(archive: str, aspects: str | None, limit: int | None, folder: Path, workers: int) -> None:
    "Images, resized and shifted, as files that every process maps; labels, folds and shortcuts beside them"
    import torch
    from sklearn.model_selection import StratifiedGroupKFold
    from torch.nn.functional import interpolate

    from pneumoprune.data import split_validation
    from pneumoprune.evaluation import distant_split, shortcut_scores, texture_features, texture_score
    from pneumoprune.guard import block_features
    from pneumoprune.synthetic import SHIFTS

    xrays = training_images(Path(archive), folder, limit)
    for side in (128, 160):
        blocks = torch.as_tensor(np.array(xrays.images)).split(256)
        small = [interpolate(b.float(), (side, side), mode="bilinear", antialias=True).round().byte() for b in blocks]
        np.save(folder / f"clean-{side}.npy", torch.cat(small).numpy())
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(workers, len(SHIFTS)), initializer=_one_thread) as pool:
        columns = {"name": xrays.names, "label": xrays.labels, "patient": xrays.patients}
        table, ratio = pd.DataFrame(columns), None
        if aspects:
            known = pd.read_csv(aspects).set_index("name")["log_aspect"]
            ratio = known.reindex(table["name"].str.replace("\\", "/")).to_numpy()
            assert np.isfinite(ratio).all(), f"{aspects} lacks some of the images"
        pending = pool.starmap_async(_shift, [(folder, kind, ratio) for kind in ("clean", *SHIFTS)])
        table["texture"] = texture_score(xrays.images, xrays.labels, xrays.patients)
        if ratio is not None:
            table["aspect"] = shortcut_scores(ratio[:, None], xrays.labels, xrays.patients)
        deal = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
        for fold, (_, held_out) in enumerate(deal.split(table, table["label"], table["patient"])):
            table.loc[held_out, "fold"] = fold
        table["held_out"] = split_validation(xrays, 0.15, seed=0).split == "val"
        looks = np.hstack([block_features(xrays.images), texture_features(xrays.images)])
        table["distant"] = distant_split(looks, xrays.labels, xrays.patients, share=1 / FOLDS)
        pending.get()
    table.to_csv(folder / "table.csv", index=False)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _shift(folder: Path, kind: str, ratio: np.ndarray | None = None) -> None:
    "The images under one shift, squeezed as they are, and the middle of each where the aspect ratios are known"
    from pneumoprune.data import XRays
    from pneumoprune.synthetic import shifted

    images = np.load(folder / "clean.npy", mmap_mode="r")
    n = len(images)
    xrays = XRays(images, np.zeros(n, int), np.arange(n).astype(str), np.full(n, ""), np.full(n, "train"), "", "")
    if kind != "clean":
        np.save(folder / f"{kind}.npy", images := shifted(xrays, kind).images)
    if ratio is not None:
        np.save(folder / f"{kind}-crop.npy", np.stack([_middle(*pair) for pair in zip(images, ratio, strict=True)]))


def _middle(image: np.ndarray, log_aspect: float) -> np.ndarray:
    "What is left of a squeezed image (1, side, side) where the longer side is cropped instead"
    side, wide, high = image.shape[-1], min(1, np.exp(-log_aspect)), min(1, np.exp(log_aspect))
    box = side * (1 - wide) / 2, side * (1 - high) / 2, side * (1 + wide) / 2, side * (1 + high) / 2
    return np.asarray(Image.fromarray(image[0]).resize((side, side), Image.Resampling.BILINEAR, box=box))[None]


def network(part: str, pooled: int, seed: int):
    "The untrained network of a part; its input is averaged over `pooled` × `pooled` pixels"
    from torch import nn

    from pneumoprune.alexnet import alexnet, narrow_alexnet
    from pneumoprune.slimming import SlimSettings

    if part not in SLIMS:
        return alexnet(seed=seed)
    model = narrow_alexnet(*WIDTHS, planes=1, dropout=SlimSettings().dropout, seed=seed)
    return nn.Sequential(nn.AvgPool2d(pooled), model) if pooled > 1 else model


def criteria(scores: dict[str, np.ndarray], table: pd.DataFrame) -> dict[str, float]:
    "The criteria of one training; `scores` of the patients held out, for each shift"
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    from pneumoprune.evaluation import EvaluationError, misled_auc

    labels = table["label"].to_numpy()
    found = {"clean": roc_auc_score(labels, scores["clean"])}
    found["auc"] = np.mean([roc_auc_score(labels, s) for s in scores.values()])
    for shortcut in [name for name in ("texture", "aspect") if name in table]:
        misleading = table[shortcut].to_numpy()
        try:
            found[shortcut] = np.mean([misled_auc(labels, s, misleading) for s in scores.values()])
            found[f"{shortcut}_clean"] = misled_auc(labels, scores["clean"], misleading)
        except EvaluationError:  # so few images that no pair is misled
            found[shortcut] = found[f"{shortcut}_clean"] = np.nan
    within = [spearmanr(scores["clean"][labels == k], table["texture"][labels == k]).statistic for k in (0, 1)]
    return found | {"follows": float(np.mean(within))}


def train_one(folder: Path, job: tuple, epochs: int | None, device: str) -> dict:
    "One training: a row of the table"
    from pneumoprune.data import XRays
    from pneumoprune.slimming import SlimSettings
    from pneumoprune.synthetic import SHIFTS
    from pneumoprune.training import TrainSettings, _device, fit, predict

    part, arm, seed, fold = job
    start, table = time.perf_counter(), pd.read_csv(folder / "table.csv")
    shape, changes = ARMS[arm] if part in SLIMS else ("", ORIGINAL[arm])
    side, pooled, end = INPUTS[shape]
    base = replace(SlimSettings().final, epochs=12) if part in SLIMS else TrainSettings()
    settings = replace(base, **changes, seed=seed, device=device)
    settings = replace(settings, epochs=epochs or settings.epochs)
    held_out = (table[HELD_OUT[part]] if part in HELD_OUT else table["fold"] == fold).to_numpy()
    images = np.load(folder / (f"clean{end}.npy" if side == 224 else f"clean-{side}.npy"), mmap_mode="r")
    split = np.where(held_out, "val", "train")
    xrays = XRays(images, table["label"].to_numpy(), table["patient"].astype(str).to_numpy(),
                  table["name"].to_numpy(str), split, "training patients", "")
    model = network(part, pooled, seed)
    fit(model, xrays, settings, name=arm)
    trained = time.perf_counter() - start
    model.to(_device(device))
    files = {kind: np.load(folder / f"{kind}{end}.npy", mmap_mode="r") for kind in ("clean", *SHIFTS)}
    scores = {kind: predict(model, file[held_out], side=side) for kind, file in files.items()}
    row = {"part": part, "arm": arm, "seed": seed, "fold": fold, "input": shape or "224px"}
    row |= criteria(scores, table[held_out].reset_index(drop=True))
    changed = {k: v for k, v in asdict(settings).items() if v != getattr(TrainSettings(), k) and k != "device"}
    row |= {"seconds": trained, "settings": json.dumps(changed)}
    return row


def work(folder: Path, todo, done, deadline: float, epochs: int | None, device: str) -> None:
    "One process: takes trainings until none is left or the time is up"
    _one_thread()
    os.environ["TQDM_DISABLE"] = "1"
    warnings.simplefilter("ignore")
    while time.time() < deadline:
        try:
            job = todo.get(timeout=1)
        except Empty:
            break
        try:
            done.put((job, train_one(folder, job, epochs, device), None))
        except Exception as error:  # told by the main process, which goes on
            done.put((job, None, f"{type(error).__name__}: {error}"))
    done.put(None)


def run(options: argparse.Namespace) -> None:
    "Prepare, start the processes, write each row as it comes"
    deadline, context = time.time() + options.seconds, multiprocessing.get_context("spawn")
    started = time.time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(options.archive, options.aspects, options.limit, folder, options.workers)
        print(f"prepared in {time.time() - started:.0f} s", flush=True)
        todo, done = context.Queue(), context.Queue()
        wanted = [job for job in jobs(options.seeds) if job[0] in options.part]
        old = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame()
        have = set(zip(old["part"], old["arm"], old["seed"], old["fold"])) if len(old) else set()
        for job in wanted:
            if job not in have:
                todo.put(job)
        arguments = (folder, todo, done, deadline, options.epochs, options.device)
        workers = [context.Process(target=work, args=arguments) for _ in range(options.workers)]
        for worker in workers:
            worker.start()
        rows, running = [old] if len(old) else [], len(workers)
        while running:
            try:
                answer = done.get(timeout=5)
            except Empty:
                running = min(running, sum(worker.is_alive() for worker in workers))
                continue
            if answer is None:
                running -= 1
                continue
            job, row, error = answer
            if row is None:
                print(f"{job}: {error}", file=sys.stderr, flush=True)
                continue
            rows.append(pd.DataFrame([row]))
            pd.concat(rows).to_csv(options.out, index=False, float_format="%.6g")
            print(f"{time.time() - started:4.0f} s  {row['part']} {row['arm']} seed {row['seed']} fold {row['fold']}: "
                  f"auc {row['auc']:.4f}, texture {row['texture']:.4f}, {row['seconds']:.1f} s", flush=True)
        todo.cancel_join_thread()
        for worker in workers:
            worker.join(timeout=20)


def table(rows: pd.DataFrame) -> pd.DataFrame:
    "Per part and arm: trainings, mean criteria, value with its gain over the base, seed by seed, and its error"
    rows = rows.assign(value=(rows["auc"] + rows["texture"]) / 2)
    names = [name for name in ("value", "auc", "texture", "aspect", "clean", "follows", "seconds") if name in rows]
    found = []
    for part, arms in PARTS.items():
        mine = rows[rows["part"] == part]
        base = mine[mine["arm"] == next(iter(arms))].set_index(["seed", "fold"])
        for arm in arms:
            theirs = mine[mine["arm"] == arm].set_index(["seed", "fold"])
            if theirs.empty:
                continue
            gains = (theirs[["value", "auc"]] - base[["value", "auc"]]).dropna().groupby("seed").mean()
            error = gains.std(ddof=1) / np.sqrt(len(gains))
            entry = {"part": part, "arm": arm, "seeds": theirs.index.unique("seed").size, "trainings": len(theirs)}
            entry |= theirs[names].mean().to_dict()
            found.append(entry | {"gain": gains["value"].mean(), "error": error["value"],
                                  "auc_gain": gains["auc"].mean(), "auc_error": error["auc"]})
    return pd.DataFrame(found)


def tell(runs: list[str]) -> pd.DataFrame:
    "Of runs given as name=folder, each with several trainings: mean and standard deviation over the trainings"
    from pneumoprune.run import load_run, shortcut_effects

    found = []
    for name, folder in (text.split("=", 1) for text in runs):
        run = load_run(folder)
        for model, rows in shortcut_effects(run).groupby("model", sort=False):
            each = run.summary["seeds"]["models"][model]["each"]["test"]
            measures = {"test_auc": each["auc"], "test_accuracy": each["accuracy"]}
            measures |= {column: rows[column] for column in ("misled", "follows_val", "follows_test")}
            told = {"run": name, "model": model, "trainings": len(rows)}
            for measure, values in measures.items():
                told |= {measure: np.mean(values), f"{measure}_sd": np.std(values, ddof=1)}
            found.append(told)
    return pd.DataFrame(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", nargs="?", help="the real archive: only its training images are used")
    parser.add_argument("--aspects", help="CSV with name, log_aspect")
    parser.add_argument("--out", type=Path, default=CSV, help="rows are added here; those that are there are not run")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1e9, help="no training starts after so many seconds")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="so many images")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--show", action="store_true", help="print the table of --out")
    parser.add_argument("--tell", nargs="+", metavar="NAME=RUN", help="write what runs with several trainings reached")
    options = parser.parse_args()
    if options.tell:
        tell(options.tell).to_csv(TOLD, index=False, float_format="%.6g")
    if options.archive:
        run(options)
    if options.show or options.archive:
        pd.set_option("display.width", 200, "display.max_columns", 30)
        print(table(pd.read_csv(options.out)).round(4).to_string(index=False))
