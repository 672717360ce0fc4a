"""
Everything that must hold, on two processors: `python tests/warm.py`, or only the notebooks and test files it is given.
What every one of them needs is loaded once, and each runs in a process forked from there: imports would cost each
of them four seconds, and each export to ONNX more than one.
"""

import ctypes
import gc
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROCESSES = 2
# the longest; what is short then fills both processors evenly
FIRST = """
test_compaction.py test_cli.py 25_lab.ipynb test_report.py test_compaction_properties.py test_networks.py
test_quantization.py test_figures.py test_bad_inputs.py test_results.py test_reliability.py test_package.py
21_quantization.ipynb 20_slimming.ipynb 13_pruning.ipynb 17_compaction.ipynb test_breadth.py 09_figures.ipynb
28_cli.ipynb test_data.py 12_training.ipynb test_evaluation.py test_reference.py 03_results.ipynb 03_rezultaty.ipynb
05_evaluation.ipynb 11_alexnet.ipynb
""".split()


def keep_onnx_operations() -> None:
    "PyTorch collects 500 ONNX operations from their source, and all of its own, anew for each export: once is enough"
    try:
        from torch._export import utils
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))
        utils._materialize_cpp_cia_ops = cache(utils._materialize_cpp_cia_ops)
    except (ImportError, AttributeError):  # another PyTorch: it takes longer
        pass


def keep_memory() -> None:
    "What is freed is used again: the system would clear the pages of every large tensor anew (glibc alone knows how)"
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give nothing back
        libc.mallopt(-4, 0)  # M_MMAP_MAX: nor take a mapping of its own for what is large


loaded = False


def load() -> None:
    "The modules that most chapters and tests import, and all that a first export loads"
    global loaded
    if loaded:
        return
    import _hypothesis_pytestplugin  # noqa: F401
    import hypothesis  # noqa: F401
    import nbdev.test  # noqa: F401
    import pytest  # noqa: F401
    import torch
    import torchvision  # noqa: F401

    import pneumoprune.lab  # noqa: F401
    import pneumoprune.report  # noqa: F401

    keep_memory()
    keep_onnx_operations()
    torch.onnx.export(torch.nn.Linear(1, 1).eval(), (torch.zeros(1, 1),), BytesIO(), dynamo=True, verbose=False)
    loaded = True


def _program(name: str, *arguments: str) -> int:
    "A program beside Python's own takes this process over"
    path = Path(sys.executable).with_name(name)
    os.chdir(ROOT)
    os.execv(path, [str(path), *arguments])


def _notebook(path: Path) -> int:
    "As `nbdev-test` does, but that nothing is drawn or set in HTML that nobody will look at"
    from IPython.core.formatters import DisplayFormatter
    from nbdev.test import test_nb

    # errors in there would fail no cell anyway: IPython prints them; that figures can be drawn is seen by tests/
    DisplayFormatter.format = lambda *_, **__: ({}, {})
    os.chdir(path.parent)
    passed, _ = test_nb(path, skip_flags=["notest"], basepath=ROOT)
    return 0 if passed else 1


def _tests(path: Path, place: Path) -> int:
    "As `pytest` does, with a folder of its own for temporary files"
    import pytest

    os.chdir(ROOT)
    options = ["-n", "0", "-p", "no:cacheprovider", "--basetemp", str(place / path.stem)]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # plugins were loaded before pytest knew of them
    code = pytest.main([str(path), *options])
    return 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else int(code)  # all hard, or skipped


def _jobs(names: list[str], place: Path) -> dict[str, Callable[[], int]]:
    "What to run, the longest first"
    paths = [Path(name).resolve() for name in names]
    if missing := [str(path) for path in paths if not path.is_file()]:
        sys.exit(f"no such file: {', '.join(missing)}")
    jobs = {}
    if not paths:
        paths = [path for path in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts]
        paths += (ROOT / "tests").glob("test_*.py")
        jobs["ruff"] = lambda: _program("ruff", "check", ".")
        jobs["basedpyright"] = lambda: _program("basedpyright", "--pythonpath", sys.executable)
    for path in sorted(paths):
        run = _notebook if path.suffix == ".ipynb" else lambda path: _tests(path, place)
        jobs[str(path.relative_to(ROOT))] = lambda path=path, run=run: run(path)
    place_of = {name: number for number, name in enumerate(FIRST)}
    order = sorted(jobs, key=lambda name: place_of.get(name.rpartition("/")[2], len(FIRST)))
    return {name: jobs[name] for name in order}


def _start(run: Callable[[], int], output: Path) -> int:
    "The number of a process that runs a job and writes what it says into a file"
    if pid := os.fork():
        return pid
    code = 1
    try:
        for stream in (1, 2):
            os.dup2(os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND), stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = run()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # without waiting for the threads of a notebook's shell


def main(names: list[str]) -> None:
    "Two jobs at a time; what one says is shown if it fails"
    os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}  # threads can't be forked
    began, failed, running, done = time.monotonic(), [], {}, 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        waiting = _jobs(names, Path(folder))

        def start(name: str) -> None:
            output = Path(folder, f"{len(waiting)}.txt")
            running[_start(waiting.pop(name), output)] = name, output, time.monotonic()

        if "basedpyright" in waiting:  # it needs nothing of what is loaded, and a processor would be idle
            start("basedpyright")
        load()
        gc.freeze()
        while waiting or running:
            while waiting and len(running) < PROCESSES:
                start(next(iter(waiting)))
            pid, status, used = os.wait4(-1, 0)
            name, output, since = running.pop(pid)
            done += 1
            told = output.read_text(encoding="utf-8", errors="replace")
            if status:
                failed.append(name)
                print(told)
            last = told.strip().rpartition("\n")[2] if name.endswith(".py") else ""
            took = f"{time.monotonic() - since:4.0f} s, {used.ru_utime + used.ru_stime:4.0f} of a processor"
            print(f"{took}  {name}  {'FAILED' if status else ''} {last}".rstrip(), flush=True)
    print(f"{time.monotonic() - began:.0f} s in all")
    print(f"{done - len(failed)} passed, {len(failed)} failed")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    import warm  # by the name under which tests look whether everything is loaded

    warm.main(sys.argv[1:])
