"""What the reference run's predecessors showed on the test set: it was read by each of them, so each is told.

    python bench/earlier_runs.py results/reference/earlier.csv "e3196df=first, …" "01e780d=second, …"

Takes `results/reference/summary.json` from the commits named, each with a word on how that run differed.
"""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

from pneumoprune.core import atomic_path
from pneumoprune.run import run_outcome


def main() -> None:
    out, *runs = sys.argv[1:]
    rows = []
    for commit, difference in (given.split("=", 1) for given in runs):
        show = ["git", "show", f"{commit}:results/reference/summary.json"]
        summary = json.loads(subprocess.run(show, check=True, capture_output=True).stdout)
        rows += [{"run": f"{commit}: {difference}", "model": name, **run_outcome(summary, name)}
                 for name in summary["models"]]
    with atomic_path(Path(out)) as draft:
        pd.DataFrame(rows).to_csv(draft, index=False)


if __name__ == "__main__":
    main()
