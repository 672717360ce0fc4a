"""What the lab's stages took in a run on this machine, with nothing beside it: kept in bench/stages.json

    pneumoprune lab --data chest_xray.zip --out results/timed && python bench/stages.py results/timed
    python bench/stages.py                 # among the parts of `make bench`: what was kept, if it was this machine

A run takes longer than the whole bench, and tells the seconds of its stages itself.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from common import HERE, Row, keep_once, kept_once, machine, row, run

STAGES = HERE / "stages.json"
GOALS = {"evaluate": 150, "slim-int8": 90}  # seconds
WHOLE = 45 * 60
TRAINED = "original", "masked", "slim"


def keep_run(folder: Path) -> None:
    "Remember the seconds of a finished run of one seed"
    told = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    mine = machine()
    if (told["cpu"], told["device"], told["threads"]) != (mine["cpu"], "CPU", mine["threads"]):
        sys.exit(f"{folder} was not made on this processor with all its cores; make a run here, without other work")
    if told["settings"]["seeds"] != 1 or "evaluate" not in told["seconds"]:
        sys.exit(f"{folder} is no finished run of one seed; its stages would not be those that a user waits for")
    keep_once(STAGES, {"data": told["data"]["name"], "seconds": told["seconds"]})


def measure(_: Path | None) -> Iterator[Row]:
    if (kept := kept_once(STAGES)) is None:
        return
    seconds = kept["seconds"]
    shares = ", ".join(f"{name} {spent:.0f}" for name, spent in seconds.items())
    training = sum(seconds[name] for name in TRAINED) / sum(seconds.values())
    why = f"training is {training:.0%} of it, which `fit` sets; seconds: {shares}"
    yield row(f"the lab on {kept['data']}, all stages", sum(seconds.values()), "s", most=WHOLE, why=why)
    for name, most in GOALS.items():
        yield row(f"the lab on {kept['data']}: stage `{name}`", seconds[name], "s", most=most)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        keep_run(Path(sys.argv[1]))
    else:
        run(measure)
