"""From an archive to the statistics of a run, with ever more images: seconds per image, and memory at the peak

    python bench/growth.py                 # 1000, 10 000 and 100 000 phantoms of 64 × 64 pixels
    python bench/growth.py --up-to 1000000 # and a million

Each archive is loaded (decoded, searched for equal images, kept), loaded again, split by patient, predicted by two
networks, and summarised with intervals and verdicts, all in one fresh process. Memory counts what the process holds
itself; decoded images are a file mapped into memory, whose pages the system may drop at any time, and stand beside it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from common import Row, row, run

COUNTS, SIDE, RESAMPLES = (1_000, 10_000, 100_000, 1_000_000), 64, 200
STAGES = ("load", "load again", "predict", "summarise")


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
    from pneumoprune.training import predict

    memory, clock = Memory(), [time.perf_counter()]
    past = lambda: clock.append(time.perf_counter())
    load_xrays(path, SIDE, cache=path.parent / "cache")
    past()
    xrays = split_validation(load_xrays(path, SIDE, cache=path.parent / "cache"))
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
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def rows(counts: list[int]) -> Iterator[Row]:
    found = {}
    for count in counts:
        found[count] = grown(count)
        each = {stage: 1e6 * found[count][stage] / count for stage in STAGES}
        parts = ", ".join(f"{stage} {us:.0f}" for stage, us in each.items())
        yield row(f"{count:,} images, from archive to statistics: each", sum(each.values()), "µs", why=f"µs: {parts}")
        yield row(f"{count:,} images: memory at the peak", found[count]["own"], "MB", most=4096)
        yield row(f"{count:,} images: with mapped files", found[count]["whole"], "MB")
    *_, before, last = counts
    ratio = [sum(found[count][stage] for stage in STAGES) / count for count in (before, last)]
    yield row(f"an image of {last:,} against one of {before:,}", ratio[1] / ratio[0], "times", most=1.25)


def measure(data: Path | None) -> Iterator[Row]:
    return rows([count for count in COUNTS if count <= 100_000])


if __name__ == "__main__":
    alone = argparse.ArgumentParser(add_help=False)
    alone.add_argument("--analyse", type=Path)
    alone.add_argument("--up-to", type=int)
    options, _ = alone.parse_known_args()
    if options.analyse:
        print(json.dumps(analyse(options.analyse)))
    elif options.up_to:
        for each in rows([count for count in COUNTS if count <= options.up_to]):
            print(json.dumps(each), flush=True)
    else:
        run(measure)
