"""The guard of the shipped file: whom it refuses, what it costs, and features that could carry it instead

    python bench/guard.py chest_xray.zip --external nih_external_224.zip --external-table labels.csv   # guard.csv
    python bench/guard.py chest_xray.zip --run results/mine    # features of that run's `slim`, too
    python bench/guard.py --show                               # the tables of guard.csv
    python bench/guard.py                                      # a part of `make bench`: cost anew, shares of guard.csv

- `refused`: ONNX Runtime runs `pneumoprune/models/slim-int8.onnx` on validation and test images, split as the reference
  run splits them, on those of another hospital, and on the 200 images of `other_images`. Every distance must be the
  one that `results/reference/guard.csv` records.
- `cost`: bytes of the file with the guard and without; time of one image, in turns, on one thread.
- `features`: the same fit, with the same limit of 1 % of validation, on the guard's blocks and on activations of the
  network: what its last convolution hands on, and the penultimate layer. They are judged by validation images and by
  900 images of `other_images` drawn from another seed. Test images and another hospital's take no part.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import torch
from common import Row, machine, row
from common import run as part_of_bench
from onnx import helper
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from pneumoprune.benchmark import in_turns
from pneumoprune.core import open_onnx
from pneumoprune.data import XRays, load_labelled, load_xrays, split_validation
from pneumoprune.guard import _remove_guard, _twice, block_features, other_images
from pneumoprune.networks import load_network
from pneumoprune.prediction import OnnxModel

HERE = Path(__file__).parent
CSV = HERE / "guard.csv"
SHIPPED = HERE.parent / "pneumoprune/models/slim-int8.onnx"
RECORD = HERE.parent / "results/reference/guard.csv"
SIZE, REFUSE = 224, 0.01
NAMES = {"val": "validation images", "test": "test images", "external": "images of another hospital",
         "other": "images that are no chest X-rays"}
GOALS = {"val": {"most": 1}, "test": {"most": 2}, "other": {"least": 95}}  # per cent refused
Features = Callable[[np.ndarray], np.ndarray]  # uint8 (N, 1, S, S) -> (N, F)


# --- whom the file refuses


def distances(xrays: XRays, external: XRays | None) -> pd.DataFrame:
    "split, name, distance of every image, from the shipped file; other images have their kind for a name"
    model, (others, kinds) = OnnxModel(SHIPPED), other_images(SIZE)
    parts = [(split, xrays.part(split).names, xrays.part(split).images) for split in ("val", "test")]
    parts += [("external", external.names, external.images)] if external else []
    frames = [pd.DataFrame({"split": split, "name": names, "distance": model.distance(images)})
              for split, names, images in [*parts, ("other", kinds, others)]]
    return pd.concat(frames, ignore_index=True)


def compare_with_record(found: pd.DataFrame, recorded: pd.DataFrame) -> None:
    "End with a line unless every image has the distance that the reference run recorded"
    recorded = recorded[recorded["split"].isin(found["split"])].reset_index(drop=True)
    if not found[["split", "name"]].equals(recorded[["split", "name"]]):
        sys.exit(f"{RECORD} is of other images; give the data of the reference run")
    off = (found["distance"] - recorded["distance"]).abs().max()
    changed = ((found["distance"] > 1) != (recorded["distance"] > 1)).sum()
    if off > 1e-3 or changed:
        sys.exit(f"{RECORD} differs by up to {off:.2g}, and decides otherwise on {changed} images")
    print(f"all {len(found)} distances are those of results/reference/guard.csv, to {off:.0e}")


def refusals(found: pd.DataFrame) -> list[dict]:
    "Share refused of every split, and of every kind of other image"
    refused, other = found["distance"] > 1, found["split"] == "other"
    rows = [_share("refused", split, "", refused[found["split"] == split]) for split in found["split"].unique()]
    return rows + [_share("refused", "other", kind, group)
                   for kind, group in refused[other].groupby(found["name"][other], sort=False)]


def _share(part: str, subject: str, kind: str, refused) -> dict:
    found = {"part": part, "subject": subject, "measure": "refused", "kind": kind}
    return found | {"images": len(refused), "value": np.mean(refused)}


# --- what the guard costs


def without_guard() -> bytes:
    "The shipped file, its second output taken away"
    model = onnx.load(SHIPPED)
    _remove_guard(model.graph)
    return model.SerializeToString()


def timed(image: np.ndarray, repeats: int = 60) -> pd.DataFrame:
    "Milliseconds of one image, a row per turn, with the guard and without"
    sessions = {"with": open_onnx(SHIPPED, threads=1), "without": open_onnx(without_guard(), threads=1)}
    calls = {name: lambda session=session: session.run(None, {"images": image}) for name, session in sessions.items()}
    return in_turns(calls, repeats=repeats)


def cost() -> list[dict]:
    "Bytes and milliseconds with the guard and without, and how much more it is with it"
    times = timed(other_images(SIZE, 1)[0])
    size = pd.DataFrame({"with": [SHIPPED.stat().st_size], "without": [len(without_guard())]})
    rows = []
    for measure, table in (("bytes", size), ("milliseconds", times)):
        for subject, values in (*table.items(), ("ratio", table["with"] / table["without"])):
            low, middle, high = np.percentile(values, (25, 50, 75))
            spread = {"low": low, "high": high} if len(values) > 1 else {}
            rows.append({"part": "cost", "subject": subject, "measure": measure, "value": middle} | spread)
    return rows


# --- which features could carry it


def activations(gemm: int) -> Features:
    "What enters a linear layer of the shipped file, -1 being the last"
    model = onnx.load(SHIPPED)
    _remove_guard(model.graph)
    name = [node for node in model.graph.node if node.op_type == "Gemm"][gemm].input[0]
    model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = open_onnx(model.SerializeToString(), threads=1)
    to_bytes = lambda images: np.rint(images).clip(0, 255).astype(np.uint8)  # augmentation gives fractions
    return lambda images: session.run([name], {"images": to_bytes(images)})[0]


def activations_of_run(folder: Path) -> Features:
    "What enters the last linear layer of a run's `slim`, in float"
    network, seen = load_network(folder / "models/slim.safetensors"), []
    *_, last = (layer for layer in network.modules() if isinstance(layer, torch.nn.Linear))
    last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    def features(images: np.ndarray) -> np.ndarray:
        seen.clear()
        with torch.inference_mode():
            network(torch.as_tensor(images))
        return seen[0].flatten(1).numpy()

    return features


def in_portions(features: Features, images: np.ndarray) -> np.ndarray:
    "Features of any number of images, float64 (N, F)"
    portions = (np.ascontiguousarray(images[at : at + 128]) for at in range(0, len(images), 128))
    return np.concatenate([features(portion).astype(np.float64) for portion in portions])


def distance_by(features: Features, train: XRays) -> Features:
    "The guard's own fit, on other features: Mahalanobis distance from training images, plain and augmented"
    fitted = LedoitWolf().fit(np.concatenate([in_portions(features, part) for part in _twice(train, 0)]))
    whitening = np.linalg.cholesky(fitted.precision_)
    return lambda images: np.linalg.norm((in_portions(features, images) - fitted.location_) @ whitening, axis=1)


def judged(subject: str, features: Features, xrays: XRays, others: np.ndarray, kinds: np.ndarray) -> list[dict]:
    "Share refused of validation and of each kind of other image, and the AUC of validation against the others"
    distance = distance_by(features, xrays.part("train"))
    near, far = distance(xrays.part("val").images), distance(others)
    limit = np.quantile(near, 1 - REFUSE, method="higher")
    share, refused = partial(_share, "features", subject), pd.Series(far > limit)
    rows = [share("val", near > limit), share("", refused)]
    rows += [share(kind, group) for kind, group in refused.groupby(kinds, sort=False)]
    auc = roc_auc_score(np.repeat([0, 1], [len(near), len(far)]), np.concatenate([near, far]))
    told = {"part": "features", "subject": subject, "kind": "", "images": len(near) + len(far)}
    return [*rows, told | {"measure": "auc", "value": auc}]


def comparison(xrays: XRays, run: Path | None) -> list[dict]:
    "Rows of all features"
    xrays = xrays.take(xrays.split != "test")
    others, kinds = other_images(SIZE, 900, seed=1)
    contenders = {"blocks": block_features, "last convolution": activations(0), "penultimate": activations(-1)}
    contenders |= {"penultimate, slim in float": activations_of_run(run)} if run else {}
    return [found for name, features in contenders.items() for found in judged(name, features, xrays, others, kinds)]


# --- what came out


def tables(rows: pd.DataFrame) -> str:
    "The parts of guard.csv, one table each"
    rows = rows.assign(kind=rows["kind"].fillna(""))
    refused, features = (rows[rows["part"] == part] for part in ("refused", "features"))
    refused = refused[["subject", "kind", "images", "value"]]
    recorded = pd.read_csv(RECORD).assign(refused=lambda table: table["distance"] > 1)
    shares = {split: group["refused"].mean() for split, group in recorded.groupby("split")}
    shares |= recorded[recorded["split"] == "other"].groupby("name")["refused"].mean().to_dict()
    refused = refused.assign(reference=[shares[kind or subject] for subject, kind, *_ in refused.to_numpy()])
    features = features.assign(what=features["kind"].where(features["measure"] == "refused", "AUC").replace("", "all"))
    wide = features.pivot(index="what", columns="subject", values="value")[features["subject"].unique()]
    cost = rows[rows["part"] == "cost"][["measure", "subject", "value", "low", "high"]]
    shown = (refused, cost, wide.loc[features["what"].unique()].reset_index())
    return "\n\n".join(table.to_string(index=False) for table in shown)


def measure(_: Path | None) -> Iterator[Row]:
    "Rows of `make bench`: the cost, and the shares of guard.csv, for which test images are needed"
    times = timed(other_images(SIZE, 1)[0])
    ratio = times["with"] / times["without"]
    yield row("the guard: time of one image with it against without", ratio, "times", most=1.2)
    yield row("the guard: slim-int8.onnx with it", SHIPPED.stat().st_size / 1e6, "MB", most=0.1)
    yield row("the guard: slim-int8.onnx without it", len(without_guard()) / 1e6, "MB")
    rows = pd.read_csv(CSV)
    whole = rows[(rows["part"] == "refused") & rows["kind"].isna()].set_index("subject")
    for split, told in whole.iterrows():
        what = f"the guard refuses, of {told['images']:.0f} {NAMES[str(split)]}"
        yield row(what, 100 * told["value"], "%", **GOALS.get(str(split), {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", nargs="?", type=Path, help="the data of the reference run")
    parser.add_argument("--external", type=Path, help="images of another hospital")
    parser.add_argument("--external-table", help="their table, a path or the name of a file in there")
    parser.add_argument("--run", type=Path, help="a run folder with models: its `slim` is compared, too")
    parser.add_argument("--out", type=Path, default=CSV)
    parser.add_argument("--show", action="store_true", help="print the tables of --out")
    options = parser.parse_args()
    if options.archive:
        torch.set_num_threads(1)
        xrays = split_validation(load_xrays(options.archive, SIZE), seed=0)
        external = load_labelled(options.external, SIZE, table=options.external_table) if options.external else None
        found = distances(xrays, external)
        compare_with_record(found, pd.read_csv(RECORD))
        rows = pd.DataFrame([*refusals(found), *cost(), *comparison(xrays, options.run)])
        columns = ["part", "subject", "measure", "kind", "images", "value", "low", "high"]
        rows = rows[columns].astype({"images": "Int64"}).assign(machine=machine()["cpu"])
        rows.to_csv(options.out, index=False, float_format="%.6g")
    print(tables(pd.read_csv(options.out, dtype={"images": "Int64"})))


if __name__ == "__main__":
    if not sys.argv[1:] or sys.argv[1] in ("--data", "--threads"):
        part_of_bench(measure)
    else:
        main()
