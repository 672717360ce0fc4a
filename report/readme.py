"Write the results of the reference run into README.md, between its two markers: no number there is typed"

import re
from pathlib import Path

from pneumoprune.run import load_run, times_smaller
from pneumoprune.tables import comparison_table

ROOT = Path(__file__).parent.parent
MARKERS = re.compile(r"(<!-- results:.*?-->\n).*?(<!-- end of results -->)", re.S)


def results(folder: Path = ROOT / "results/reference") -> str:
    "The comparison table of a run as Markdown, and what it was measured on"
    run = load_run(folder)
    table = comparison_table(run).reset_index()
    rows = [table.columns, ["---"] + ["---:"] * (table.shape[1] - 1), *table.values.tolist()]
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    counts, seconds = run.info["data"]["counts"]["test"], sum(run.info["seconds"].values())
    uncounted = "" if run.rounds["seconds"].iloc[0] else ", validation between the rounds of slimming not counted"
    lines.append(
        f"\nMeasured on the test set of {run.info['data']['name']} ({sum(counts.values())} X-rays), "
        f"on {run.info['threads']} cores of an {run.info['cpu']} processor; "
        f"the stages of the run took {seconds / 60:.0f} minutes{uncounted}. "
        "A megabyte is 2²⁰ bytes; inference time is that of the whole test set on one core, networks taking turns. "
        "Noise is what is left on a validation curve without its learning ramp, prunings and changes of image size, "
        "with a 95 % interval. Intervals of the other numbers, curves, confusion matrices and the rest stand in the "
        "report."
    )
    fast = [run.summary["speedups"][f"slim-int8 against original in {engine}"] for engine in ("pytorch", "onnxruntime")]
    eager, runtime = (f"{median:.1f} times ({low:.1f} to {high:.1f})" for median, low, high in fast)
    lines.append(
        f"\nThe file of `slim-int8` is {times_smaller(run, 'slim-int8'):,.0f} times smaller than that of `original`. "
        f"With one image and one thread it is {eager} as fast as `original` in PyTorch, and {runtime} as fast as "
        "`original` in ONNX Runtime: medians and quartiles of the ratios within a turn."
    )
    return "\n".join(lines) + "\n"


def with_results(text: str, found: str) -> str:
    "README text with the results between the markers"
    return MARKERS.sub(lambda m: m[1] + found + m[2], text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_results(readme.read_text(encoding="utf-8"), results()), encoding="utf-8")
