"""From an archive to the statistics of a run, with ever more images: seconds per image, and memory at the peak

    python bench/growth.py                 # 1000, 10 000 and 100 000 phantoms of 64 × 64 pixels
    python bench/growth.py --million       # a million, once: kept in bench/million.json, and shown with the others

Each archive is loaded (decoded, searched for equal images, kept), loaded again, split by patient, its validation images
shifted in nine ways, all images predicted by two networks, and summarised with intervals and verdicts, all in one fresh
process. Time is that of the processor, so that what else the machine does counts little. Memory counts what the process
holds itself; decoded images are a file mapped into memory, whose pages the system may drop at any time, and stand
beside it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
from common import HERE, Row, keep_once, kept_once, row, run

COUNTS, SIDE, RESAMPLES = (1_000, 10_000, 100_000), 64, 200
MILLION = HERE / "million.json"
STAGES = ("load", "load again", "shift", "predict", "summarise")


def write_archive(path: Path, count: int) -> None:
    "So many different phantoms, two of each patient: 400 drawings, each under noise of its own"
    from PIL import Image

    from pneumoprune.data import CLASSES
    from pneumoprune.synthetic import phantoms

    drawn, rng = phantoms(400, size=SIDE, seed=0), np.random.default_rng(0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number in range(count):
            which, file = number // 2 % len(drawn), BytesIO()
            noise = rng.integers(-9, 10, (SIDE, SIDE), dtype=np.int16)
            image = (drawn.images[which, 0] + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(image).save(file, "JPEG", quality=90)
            split, kind = "test" if number // 2 % 4 == 0 else "train", CLASSES[drawn.labels[which]]
            archive.writestr(f"{split}/{kind}/p{number // 2:07d}-{number % 2}.jpeg", file.getvalue())


class Memory:
    "Megabytes at the peak, looked at every 20 ms: anonymous, and with the pages of mapped files"

    def __init__(self):
        self.own = self.whole = 0.0
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
            now = {name: int(text.split()[0]) / 1024 for name, text in (line.split(":", 1) for line in lines)
                   if name in ("RssAnon", "VmHWM")}
            self.own, self.whole = max(self.own, now["RssAnon"]), now["VmHWM"]
            time.sleep(0.02)


def analyse(path: Path) -> dict[str, float]:
    "Seconds of each stage, and megabytes"
    import pandas as pd

    from pneumoprune.alexnet import narrow_alexnet
    from pneumoprune.data import load_xrays, split_validation
    from pneumoprune.run import summarise
    from pneumoprune.synthetic import shift_suite
    from pneumoprune.training import predict

    memory, clock = Memory(), [time.process_time()]
    past = lambda: clock.append(time.process_time())
    load_xrays(path, SIDE, cache=path.parent / "cache")
    past()
    xrays = split_validation(load_xrays(path, SIDE, cache=path.parent / "cache"))
    past()
    shift_suite(xrays.part("val"))
    past()
    table = pd.DataFrame({"split": xrays.split, "name": xrays.names, "patient": xrays.patients, "label": xrays.labels})
    for seed, name in enumerate(("original", "slim")):
        table[name] = predict(narrow_alexnet((16, 32, 32, 32, 32), (64, 64), planes=1, seed=seed), xrays)
    past()
    summarise(table, resamples=RESAMPLES)
    past()
    time.sleep(0.05)
    return dict(zip(STAGES, np.diff(clock).tolist())) | {"own": memory.own, "whole": memory.whole}


def grown(count: int) -> dict[str, float]:
    "What a fresh process needs for so many images"
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "phantoms.zip")
        write_archive(path, count)
        command = [sys.executable, __file__, "--analyse", str(path)]
        alone = os.environ | {"OMP_NUM_THREADS": "1"}  # two threads burn their seconds waiting where others are at work
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=alone)
    return json.loads(done.stdout.splitlines()[-1])


def each(count: int, found: dict[str, float]) -> float:
    "Microseconds of an image"
    return 1e6 * sum(found[stage] for stage in STAGES) / count


def rows(count: int, found: dict[str, float]) -> Iterator[Row]:
    parts = ", ".join(f"{stage} {1e6 * found[stage] / count:.0f}" for stage in STAGES)
    yield row(f"{count:,} images, from archive to statistics: each", each(count, found), "µs", why=f"µs: {parts}")
    yield row(f"{count:,} images: memory at the peak", found["own"], "MB", most=4096)
    yield row(f"{count:,} images: with mapped files", found["whole"], "MB")


def growth(before: int, less: dict[str, float], after: int, more: dict[str, float]) -> Row:
    "How much longer an image takes among more of them"
    stages = {stage: (more[stage] / after) / (less[stage] / before) for stage in STAGES}
    why = "stage by stage " + ", ".join(f"{stage} {ratio:.1f}" for stage, ratio in stages.items())
    ratio = each(after, more) / each(before, less)
    return row(f"an image of {after:,} against one of {before:,}", ratio, "times", most=1.25, why=why)


def measure(data: Path | None) -> Iterator[Row]:
    found = {}
    for count in COUNTS:
        found[count] = grown(count)
        yield from rows(count, found[count])
    if once := kept_once(MILLION):
        found[1_000_000] = once["found"]
        yield from rows(1_000_000, found[1_000_000])
    for before, after in list(pairwise(found))[1:]:  # a thousand images are mostly the start of the process
        yield growth(before, found[before], after, found[after])


if __name__ == "__main__":
    alone = argparse.ArgumentParser(add_help=False)
    alone.add_argument("--analyse", type=Path)
    alone.add_argument("--million", action="store_true")
    options, _ = alone.parse_known_args()
    if options.analyse:
        print(json.dumps(analyse(options.analyse)))
    elif options.million:
        keep_once(MILLION, {"found": grown(1_000_000)})
        print(MILLION.read_text(encoding="utf-8"))
    else:
        run(measure)
