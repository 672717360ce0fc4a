"""
What every test process needs, loaded once: `python tests/warm.py [NOTEBOOK]` is `nbdev-test` with processes that
inherit it. Imports would cost each of them four seconds, and each export to ONNX more than one.
"""

import multiprocessing
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def keep_onnx_operations() -> None:
    "PyTorch reads its table of 500 ONNX operations from their source anew for each export: once is enough"
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))
    except (ImportError, AttributeError):  # another PyTorch: it takes longer
        pass


def load() -> None:
    "The modules that most chapters import, and all that a first export loads"
    import torch

    import pneumoprune.report  # noqa: F401

    keep_onnx_operations()
    torch.onnx.export(torch.nn.Linear(1, 1).eval(), (torch.zeros(1, 1),), BytesIO(), dynamo=True, verbose=False)


def _run(notebook: Path) -> None:
    "One notebook, in a process of its own: what it registers and redefines goes with it"
    from nbdev.test import test_nb

    os.chdir(notebook.parent)
    passed, _ = test_nb(notebook, skip_flags=["notest"], basepath=ROOT)
    sys.stderr.flush()
    os._exit(0 if passed else 1)  # without waiting for the threads of its shell


def _timed(notebook: Path) -> tuple[float, Path, bool]:
    start, process = time.perf_counter(), multiprocessing.get_context("fork").Process(target=_run, args=(notebook,))
    process.start()
    process.join()
    return time.perf_counter() - start, notebook, process.exitcode == 0


def main(notebooks: list[Path]) -> None:
    "As `nbdev-test --n-workers 2 --timing`, the largest notebooks first"
    load()
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(_timed, sorted(notebooks, key=lambda path: -path.stat().st_size)))
    for seconds, notebook, _ in sorted(done, reverse=True):
        print(f"{notebook.name}: {seconds:.0f} s")
    if failed := [str(notebook) for _, notebook, passed in done if not passed]:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    everything = [path for path in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts]
    main([Path(name).resolve() for name in sys.argv[1:]] or everything)
