"""How long a command takes to answer, and how much memory, in a fresh process

    python bench/starting.py
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from common import Row, row, run
from PIL import Image

from pneumoprune.benchmark import peak_memory
from pneumoprune.synthetic import phantoms

TIMES = 9
COMMAND = [sys.executable, "-c", "from pneumoprune.cli import main; main()"]
GOALS = {"--help": (0.15, None), "predict": (0.35, 120)}  # seconds, MB
# what a command cannot do without
LOADED = {"--help": "import typer", "predict": "import typer, numpy, onnxruntime, PIL.Image"}


def seconds(command: list[str]) -> list[float]:
    "Of each call; the first, which fills the caches of the disk, is not counted"
    spent = []
    for _ in range(TIMES + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        spent.append(time.perf_counter() - start)
    return spent[1:]


def measure(data: Path | None) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        image = Path(name, "phantom.png")
        Image.fromarray(phantoms(40, size=224, seed=0).images[0, 0]).save(image)
        commands = {"--help": [*COMMAND, "--help"], "predict": [*COMMAND, "predict", str(image), "--force"]}
        for what, command in commands.items():
            most, memory = GOALS[what]
            loaded = median(seconds([sys.executable, "-c", LOADED[what]]))
            yield row(f"`pneumoprune {what}`", seconds(command), "s", most=most,
                      why=f"{loaded:.2f} s of it are Python and `{LOADED[what]}`")
            if memory:
                yield row(f"`pneumoprune {what}`: memory at the peak", peak_memory(command), "MB", most=memory)


if __name__ == "__main__":
    run(measure)
