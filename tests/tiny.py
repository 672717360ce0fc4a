"""
The smallest run that walks through all stages, and ways to spoil it. `attempts` calls the functions in processes of
their own.
"""

import builtins
import errno
import io
import json
import os
import signal
import sys
import warnings
from dataclasses import fields, replace
from pathlib import Path

import pneumoprune.lab as lab

WITHOUT = (
    "seconds",
    "latency",
    "inference",
    "speedups",
    "peak_memory",
    "stages",
    "jobs",
)  # a stopwatch has no two answers


def settings() -> lab.LabSettings:
    "Narrow networks, an epoch here and there"
    found = lab.lab_settings(epochs=2, size=64, quick=True, synthetic=True, device="cpu")
    once = replace(found.slim, rounds=1, final=replace(found.slim.final, epochs=1))
    found = replace(
        found,
        conv=(16, 32, 32, 32, 32),
        linear=(64, 64),
        slim=once,
        resamples=20,
        repeats=2,
        sensitivity=(),
        amounts=(0.2,),
    )
    quick = {"stopwatch": 0.1, "memory": False}
    return replace(found, **{name: value for name, value in quick.items() if name in {f.name for f in fields(found)}})


def run(folder: str) -> None:
    "The whole of it; or, where the folder is so called, the trainings: exporting and measuring take most of the time"
    warnings.simplefilter("ignore")
    if Path(folder).name.startswith("trainings"):
        lab.int8_stage = lambda *_: sys.exit(0)
    lab.run_lab(None, folder, settings(), phantom_count=60)


def run_told(folder: str) -> None:
    "The run as the command line tells of it"
    told(lambda: run(folder))


def told(function) -> None:
    "As the command line does: a mistake is one line and exit code 2"
    from pneumoprune import cli

    cli.app = lambda **_: function()
    cli.main()


# -------------------------------------------------------------------------------- file operations that fail

WRITES = {"open": builtins.open, "os.open": os.open, "replace": os.replace, "fsync": os.fsync, "mkdir": os.mkdir}


def _count(folder: str, before) -> None:
    "Call `before(number, what)` before each operation that writes into the folder"
    numbers, inside = iter(range(1, 10**9)), os.path.realpath(folder)

    def here(path) -> bool:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        return os.path.realpath(os.fspath(path)).startswith(inside)

    def patched(name, writes):
        original = WRITES[name]

        def operation(path, *more, **named):
            if writes(*more, **named) and here(path):
                before(next(numbers), f"{name} {path}")
            return original(path, *more, **named)

        return operation

    always = lambda *_, **__: True
    builtins.open = io.open = patched("open", lambda mode="r", *_, **__: bool(set(mode) & set("wax+")))
    os.open = patched("os.open", lambda flags=0, *_, **__: bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
    os.replace, os.fsync, os.mkdir = (patched(name, always) for name in ("replace", "fsync", "mkdir"))


def count(folder: str, log: str) -> None:
    "The run, and how many operations it takes, written to a file elsewhere"
    seen = []
    _count(folder, lambda number, what: seen.append(what))
    try:
        run(folder)
    finally:
        with WRITES["open"](log, "w", encoding="utf-8") as file:
            json.dump(seen, file)


def failing(folder: str, at: str, code: str) -> None:
    "The run, whose operation number `at` and all that write after it fail: a disk that is full stays full"

    def before(number, what):
        if number >= int(at):
            raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)), what.partition(" ")[2])

    _count(folder, before)
    told(lambda: run(folder))


# -------------------------------------------------------------------------------- a power cut


def power_cut(folder: str, at: str) -> None:
    "The run, until operation number `at`; then what no `fsync` has brought to the disk is lost, and the process"
    on_disk, renamed = (
        {},
        [],
    )  # content of a file by its path, when it was synced; renamings since their folder was synced
    numbers = {"left": int(at)}

    def contents(path):
        return WRITES["open"](path, "rb").read()

    def before(number, what):
        if number == numbers["left"]:
            for old, new, was in reversed(renamed):  # the names in a folder are lost, too, until it is synced
                os.rename(new, old)
                if was is not None:
                    WRITES["open"](new, "wb").write(was)
            for path in Path(folder).rglob("*"):
                if path.is_file() and on_disk.get(os.path.realpath(path)) != contents(path):
                    os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    _count(folder, before)
    fsync, move = os.fsync, os.replace

    def synced(number):
        fsync(number)
        path = os.path.realpath(os.readlink(f"/proc/self/fd/{number}"))
        if os.path.isdir(path):
            renamed[:] = [one for one in renamed if os.path.dirname(one[1]) != path]
        else:
            on_disk[path] = contents(path)

    def moved(old, new):
        was = contents(new) if os.path.exists(new) else None
        move(old, new)
        old, new = os.path.realpath(old), os.path.realpath(new)
        renamed.append((old, new, was))
        if old in on_disk:
            on_disk[new] = on_disk[old]

    os.fsync, os.replace = synced, moved
    run(folder)


# -------------------------------------------------------------------------------- what must be equal


def _timeless(value):
    "JSON without what a stopwatch has measured, and without what follows from it"
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if not key.startswith(WITHOUT)}
    return value


def result(folder: Path) -> dict:
    "What a run has found, by file: equal bytes of networks and tables, but for measured times"
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name.startswith(("checkpoints", "latency", "inference")):
            continue
        if path.suffix == ".json":
            found[name] = _timeless(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix == ".csv":
            lines = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
            kept = [i for i, column in enumerate(lines[0]) if column != "seconds"]
            found[name] = [[line[i] for i in kept] for line in lines]
        else:
            found[name] = path.read_bytes()
    return found
