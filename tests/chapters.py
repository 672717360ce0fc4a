"""
The examples and assertions of a chapter, run inside the module that it exports: `nbdev-test` tries the cells of the
notebook, this tries the module. `python tests/chapters.py [NOTEBOOK]` runs each in a process of its own.
"""

import importlib
import json
import multiprocessing
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def sources(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def module_of(notebook: Path) -> str:
    "The module that a chapter exports; an empty text for one that exports nothing"
    found = [re.search(r"^#\| default_exp (\w+)", source, re.M) for source in sources(notebook)]
    return next((match[1] for match in found if match), "")


def run(notebook: Path) -> None:
    "All cells that are not exported; what they define and replace stays in the module"
    os.chdir(notebook.parent)
    name = f"pneumoprune.{module_of(notebook)}"
    space = vars(importlib.import_module(name))
    space["display"] = lambda *_: None
    skipped = re.compile(r"^(#\| *(export|default_exp|eval: *false|notest)|from nbdev|[%!])", re.M)
    for source in sources(notebook):
        if not skipped.search(source):
            # what is patched in the notebook is patched in the module
            here = source.replace('"__main__.', f'"{name}.')
            exec(compile(here, notebook.stem, "exec"), space)  # noqa: S102


def main(notebooks: list[Path]) -> None:
    import warm

    warm.load()
    failed = []
    for notebook in notebooks:
        process = multiprocessing.get_context("fork").Process(target=run, args=(notebook,))
        process.start()
        process.join()
        failed += [notebook.name] * bool(process.exitcode)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    everything = [path for path in sorted((ROOT / "nbs").glob("*.ipynb")) if module_of(path)]
    main([Path(name).resolve() for name in sys.argv[1:]] or everything)
