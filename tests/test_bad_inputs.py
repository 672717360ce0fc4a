"""
Every mistake of the command line ends alike: exit code 2, one line that names the thing and the remedy, nothing
written, no control character for the terminal, within 20 seconds of the processor's time and 1.5 GB.
"""

import os
import re
from pathlib import Path

import pytest
from attempts import Attempts, Ended
from bad_inputs import Case, commands, materials

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a command is a forked process")

SECONDS, MB, EVERY = 20, 1500, 12  # limits of one command; `make test` takes every twelfth


@pytest.fixture(scope="module")
def world(attempt, tmp_path_factory):
    "The folder of bad inputs, and the function that runs commands"
    return materials(tmp_path_factory.mktemp("bad") / "materials"), attempt


def contents(folder: Path) -> dict:
    "What is in a folder: nothing may be written"
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*")}


def fault(case: Case, folder: Path, place: Path, attempt: Attempts) -> tuple[str, Ended]:
    "What is wrong with the way this command ends, an empty text if nothing is; and how it ended"
    before = contents(folder)
    done = attempt(
        case.arguments, place, modules=folder / "good", limit=10 * SECONDS
    )  # in real time, on a busy machine
    lines = [line for line in done.err.splitlines() if not line.startswith("pneumoprune: note: ")]
    told = {
        f"exit code {done.code}": done.code != 2,
        f"{len(lines)} lines": len(lines) != 1,
        "a traceback": "Traceback" in done.err,
        "no remedy": ";" not in done.err,
        "a control character": bool(re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", done.err + done.out)),
        f"{len(done.err)} characters": len(done.err) > 1000,
        f"no {[word for word in case.told if word.lower() not in done.err.lower()]}": not all(
            word.lower() in done.err.lower() for word in case.told
        ),
        f"{done.seconds:.0f} s": done.seconds > SECONDS,
        f"{done.mb} MB": done.mb > MB,
        f"wrote {[p.name for p in place.iterdir()]}": any(place.iterdir()),
        "changed its input": contents(folder) != before,
    }
    wrong = ", ".join(what for what, is_so in told.items() if is_so)
    return f"{case!r}\n      {wrong}\n      {done.err.strip()[-300:]}" if wrong else "", done


def faults(cases, world, tmp_path) -> tuple[list[str], list[Ended]]:
    folder, attempt = world
    found = []
    for number, case in enumerate(cases):
        place = tmp_path / str(number)
        place.mkdir()
        found.append(fault(case, folder, place, attempt))
    return [text for text, _ in found if text], [done for _, done in found]


@pytest.mark.parametrize("name", ["predict", "explain", "compact", "lab", "evaluate", "page"])
def test_some_bad_inputs(name, world, tmp_path):
    cases = commands(world[0])[name]
    found, _ = faults(cases[sum(map(ord, name)) % EVERY :: EVERY], world, tmp_path)
    assert found == [], "\n".join(found)


@pytest.mark.hard
@pytest.mark.parametrize("name", ["predict", "explain", "compact", "lab", "folders", "evaluate", "page"])
def test_all_bad_inputs(name, world, tmp_path, record_property):
    cases = commands(world[0])[name]
    found, ended = faults(cases, world, tmp_path)
    record_property("inputs", len(cases))
    record_property("seconds", max(one.seconds for one in ended))
    record_property("mb", max(one.mb for one in ended))
    assert found == [], "\n".join(found)
