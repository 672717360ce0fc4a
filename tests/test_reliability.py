"""
A run is killed, its disk fails or is full, the power goes, and its files rot. Whatever happens, the same command
goes on, and the end is the end of an undisturbed run, in bytes. A few of each in `make test`, on the trainings alone;
more of each, over all stages, in `make test-hard`.
"""

import json
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny

from pneumoprune.lab import _LEAVES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks into /proc")

KILLS, FAILURES, CUTS = 30, 30, 8  # in `make test-hard`
LIMIT = 600  # seconds of real time that a run may take on a busy machine
STAGES = tuple(_LEAVES)


def undisturbed(attempt, folder: Path) -> tuple[Path, list[str], float]:
    "A run that nothing happens to, the operations by which it wrote its files, and its seconds"
    ended = attempt([folder, folder.parent / "log"], folder.parent, call="tiny:count", limit=LIMIT)
    assert ended.code == 0, ended.err
    return folder, json.loads((folder.parent / "log").read_text()), ended.seconds


@pytest.fixture(scope="module")
def trainings(attempt, tmp_path_factory):
    "The trainings of a tiny run"
    return undisturbed(attempt, tmp_path_factory.mktemp("quiet") / "trainings")


@pytest.fixture(scope="module")
def whole(attempt, tmp_path_factory):
    "A whole tiny run"
    return undisturbed(attempt, tmp_path_factory.mktemp("quiet") / "whole")


def goes_on(attempt, folder: Path, quiet: Path, aside: Sequence[str] = ()) -> None:
    "The same command brings the disturbed run to the end of the other, and puts these damaged files aside"
    ended = attempt([folder], folder.parent, call="tiny:run", limit=LIMIT)
    assert ended.code == 0, ended.err
    found, expected = tiny.result(folder), tiny.result(quiet)
    assert found.keys() == expected.keys() | {f"{name}.damaged" for name in aside}
    assert [name for name in expected if found[name] != expected[name]] == []


def under_way(folder: Path) -> str:
    "The stage that a run is at, or was when it was killed"
    info = folder / "run.json"
    if not info.exists():
        return "start"
    done = json.loads(info.read_text(encoding="utf-8"))["stages"]
    return next((name for name in STAGES if name not in done), "end")


def killed(attempt, folder: Path, quiet: Path, seconds: float, rng: random.Random) -> list[str]:
    "Killed up to three times, each time a random moment after its start; then let go on. The stages it was killed in"
    kills, wanted = [], rng.randint(1, 3)
    while len(kills) < wanted:
        ended = attempt([folder], folder.parent, call="tiny:run", kill_after=rng.uniform(0, seconds), limit=LIMIT)
        if ended.code == 0 and kills:
            break
        if ended.code == 0:  # it was over before: once more, and earlier
            shutil.rmtree(folder)
            seconds /= 2
            continue
        assert ended.code == -9, ended.err
        kills.append(under_way(folder))
    goes_on(attempt, folder, quiet)
    return kills


def failed(attempt, folder: Path, quiet: Path, at: int, code: str) -> None:
    "An operation fails, and all after it: one line and exit code 2; with room again the run goes on"
    ended = attempt([folder, at, code], folder.parent, call="tiny:failing", limit=LIMIT)
    lines = [line for line in ended.err.splitlines() if not line.startswith("pneumoprune: note: ")]
    assert ended.code == 2 and len(lines) == 1 and lines[0].startswith("pneumoprune: ") and ";" in lines[0], ended.err
    goes_on(attempt, folder, quiet)


def cut_off(attempt, folder: Path, quiet: Path, at: int) -> None:
    "The power goes; what was not synced is lost"
    ended = attempt([folder, at], folder.parent, call="tiny:power_cut", limit=LIMIT)
    assert ended.code == -9, ended.err
    goes_on(attempt, folder, quiet)


@pytest.mark.parametrize("seed", range(2))
def test_killed_while_training(seed, attempt, trainings, tmp_path):
    quiet, _, seconds = trainings
    killed(attempt, tmp_path / "trainings", quiet, seconds, random.Random(seed))


def test_a_disk_that_is_full_while_training(attempt, trainings, tmp_path):
    quiet, operations, _ = trainings
    failed(attempt, tmp_path / "trainings", quiet, int(0.6 * len(operations)), "ENOSPC")


def test_the_power_goes_while_training(attempt, trainings, tmp_path):
    quiet, operations, _ = trainings
    cut_off(attempt, tmp_path / "trainings", quiet, int(0.7 * len(operations)))


@pytest.mark.hard
@pytest.mark.parametrize("seed", range(KILLS))
def test_killed_at_any_moment(seed, attempt, whole, tmp_path, record_property):
    quiet, _, seconds = whole
    kills = killed(attempt, tmp_path / "run", quiet, seconds, random.Random(100 + seed))
    record_property("kills", len(kills))
    for stage in kills:
        record_property(f"in {stage}", 1)


@pytest.mark.hard
@pytest.mark.parametrize("stage", STAGES)
def test_killed_in_each_stage(stage, attempt, whole, tmp_path):
    quiet, folder = whole[0], tmp_path / "run"
    reached = lambda: under_way(folder) == stage
    assert attempt([folder], tmp_path, call="tiny:run", kill_at=reached, limit=LIMIT).code == -9
    assert reached(), f"killed in {under_way(folder)}"
    goes_on(attempt, folder, quiet)


@pytest.mark.hard
@pytest.mark.parametrize("number", range(FAILURES))
def test_any_file_operation_fails(number, attempt, whole, tmp_path, record_property):
    quiet, operations, _ = whole
    record_property("operations", len(operations))
    at = 1 + (len(operations) - 1) * number // (FAILURES - 1)
    failed(attempt, tmp_path / "run", quiet, at, ("ENOSPC", "EIO", "EACCES", "EDQUOT")[number % 4])


@pytest.mark.hard
@pytest.mark.parametrize("number", range(CUTS))
def test_the_power_goes_at_any_moment(number, attempt, whole, tmp_path):
    quiet, operations, _ = whole
    cut_off(attempt, tmp_path / "run", quiet, 1 + (len(operations) - 1) * (2 * number + 1) // (2 * CUTS))


@pytest.mark.hard
def test_a_disk_without_room_whatever_language_writes(attempt, whole, tmp_path):
    quiet, _, _ = whole
    for size in (1000, 100_000):  # with less, not even the message could be written
        ended = attempt([tmp_path / "run"], tmp_path, call="tiny:run_told", file_size=size, limit=LIMIT)
        assert ended.code == 2 and "Traceback" not in ended.err, ended.err
    goes_on(attempt, tmp_path / "run", quiet)


def flipped(content: bytes) -> bytes:
    "One bit turned in the middle"
    half = len(content) // 2
    return content[:half] + bytes([content[half] ^ 64]) + content[half + 1 :]


DAMAGES = {
    "flipped": flipped,
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "deleted": lambda content: None,
}


@pytest.mark.hard
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_made_anew(damage, attempt, whole, tmp_path, record_property):
    quiet, _, _ = whole
    names = [path.relative_to(quiet) for path in sorted(quiet.rglob("*")) if path.is_file() and path.stat().st_size]
    noticed, unnoticed = 0, []
    for name in names:
        copy = shutil.copytree(quiet, tmp_path / "copy", dirs_exist_ok=True)
        changed = DAMAGES[damage]((copy / name).read_bytes())
        (copy / name).unlink() if changed is None else (copy / name).write_bytes(changed)
        ended = attempt(["check", copy], tmp_path, limit=LIMIT)
        assert "Traceback" not in ended.err, ended.err
        private = name.parts[0] == "checkpoints" or (damage == "deleted" and name.parts[0] == "models")  # not published
        if not private and (ended.code != 2 or name.name.partition(".")[0] not in ended.err):
            unnoticed.append(f"{name}: exit code {ended.code}, {ended.err.strip()[:200]}")
        noticed += not private
        shutil.rmtree(copy)
    assert unnoticed == [], "\n".join(unnoticed)
    record_property("damages", noticed)
    copy = shutil.copytree(quiet, tmp_path / "copy")
    spoilt = [name for name in names if damage != "deleted" and name.parts[0] in ("checkpoints", "models")]
    for name in spoilt:
        (copy / name).write_bytes(DAMAGES[damage]((copy / name).read_bytes()))
    goes_on(attempt, copy, quiet, aside=[str(name) for name in spoilt if name.parts[0] == "models"])
