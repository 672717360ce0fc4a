"What the parts of the bench share: a row with its goal, the machine, turns, and the file of results"

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PARTS = ("training", "iteration", "inference", "guard", "compaction", "slimming", "loading", "starting", "growth",
         "stages")
VERSIONS = ("torch", "torchvision", "numpy", "onnx", "onnxruntime", "openvino", "pandas", "accelerate")

Row = dict[str, Any]


def row(
    what: str,  # in the words of the table
    values: float | Sequence[float],  # of one turn each
    unit: str,  # "times", "ms", "s", "MB" …
    *,
    least: float | None = None,  # the goal is so much, or more
    most: float | None = None,  # the goal is so much, or less
    why: str = "",  # where the time goes, told where the goal is missed
) -> Row:
    "A line of results.json: median and quartiles, and the goal, if there is one"
    low, middle, high = (float(f"{number:.4g}") for number in np.percentile(values, (25, 50, 75)))
    found: Row = {"what": what, "unit": unit, "median": middle, "q1": low, "q3": high, "turns": int(np.size(values))}
    if least is None and most is None:
        return found | ({"why": why} if why else {})
    reached = middle >= least if least is not None else middle <= (most or 0)
    goal = f"≥ {least:g}" if least is not None else f"≤ {most:g}"
    return found | {"goal": goal, "reached": reached} | ({"why": why} if why and not reached else {})


def machine() -> dict[str, Any]:
    "What the numbers are measured on"
    cpuinfo = Path("/proc/cpuinfo")  # Linux only
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    versions = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # a contender that is not there is left out
            continue
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpu = next(names, platform.processor())
    return {"cpu": cpu, "threads": threads, "system": platform.system(), "versions": versions}


def keep(part: str, result: dict[str, Any]) -> None:
    "Write a part's numbers into results.json; those of another machine, or of other versions, do not stay beside them"
    from pneumoprune.core import write_json

    mine = machine()
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if found.get("machine") != mine:
        found = {"machine": mine, "parts": {}}
    found["parts"][part] = result
    found["parts"] = {name: found["parts"][name] for name in PARTS if name in found["parts"]}
    write_json(RESULTS, found)


def keep_once(path: Path, measured: dict[str, Any]) -> None:
    "Write what takes too long to be measured by every bench"
    from pneumoprune.core import write_json

    write_json(path, {"machine": machine()["cpu"]} | measured)


def kept_once(path: Path) -> dict[str, Any] | None:
    "What was kept, if that was on a processor like this one"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return kept if kept.get("machine") == machine()["cpu"] else None


def told(found: Row) -> str:
    "A row as one line on the screen"
    goal = f"   goal {found['goal']}: {'reached' if found['reached'] else 'missed'}" if "goal" in found else ""
    return f"  {found['what']}: {found['median']:g} {found['unit']} ({found['q1']:g} to {found['q3']:g}){goal}"


def run(measure: Callable[[Path | None], Iterable[Row]]) -> None:
    "The main program of a part: measure, show each row as it comes, keep all"
    import torch

    part = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(description=f"Measure {part}")
    parser.add_argument("--data", type=Path, help="chest X-rays; without them phantoms")
    parser.add_argument("--threads", type=int, default=machine()["threads"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start, rows = time.perf_counter(), []
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    for found in measure(options.data):
        rows.append(found)
        print(told(found), flush=True)
    keep(part, {
        "seconds": round(time.perf_counter() - start), "data": options.data.name if options.data else "phantoms",
        "threads": options.threads, "load_before": load and round(load, 2), "rows": rows,
    })


def images(data: Path | None, size: int = 224, count: int = 600):
    "Training images, split into train and val by patient: X-rays of the archive, or phantoms"
    from pneumoprune.data import load_xrays, split_validation
    from pneumoprune.synthetic import phantoms

    if data is None:
        drawn = phantoms(count, size=size, seed=0)
        return drawn.take(drawn.split != "test")
    xrays = split_validation(load_xrays(data, size), seed=0)
    return xrays.take(xrays.split != "test")


def in_turns(contenders: dict[str, Callable[[], float]], rounds: int) -> Iterator[dict[str, float]]:
    "What each contender returns, A B C A B C …; a first round, in which all get warm, does not count"
    for number in range(rounds + 1):
        found = {name: contender() for name, contender in contenders.items()}
        if number:
            yield found
