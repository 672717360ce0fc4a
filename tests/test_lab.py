"A run folder: what a kill leaves, who may write, what is believed"

import os
import subprocess
import sys
from dataclasses import replace

import pytest

import pneumoprune.lab as lab
from pneumoprune.core import PneumopruneError, read_json
from pneumoprune.synthetic import phantoms


@pytest.fixture
def settings():
    found = lab.lab_settings(epochs=1, size=64, quick=True, synthetic=True, device="cpu")
    return replace(found, conv=(8, 8, 8, 8, 8), linear=(16, 16))


def test_a_start_killed_at_its_first_file_leaves_a_folder_that_can_be_used(tmp_path, settings):
    def killed(*_):
        os._exit(9)

    child = os.fork()
    if not child:
        os.replace = killed
        lab.Lab(phantoms(60, 64), settings, tmp_path)
    os.waitpid(child, 0)
    assert [path.name for path in tmp_path.iterdir()] == [f".run.{child}.json"]
    lab.Lab(phantoms(60, 64), settings, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_stage_killed_before_its_record_is_made_again(tmp_path, settings):
    run = lab.Lab(phantoms(60, 64), settings, tmp_path)

    def writes(lab):
        (lab.folder / "sensitivity.csv").write_text("layer\n", encoding="utf-8")
        if len(calls) == 1:
            raise KeyboardInterrupt

    calls = [1]
    with pytest.raises(KeyboardInterrupt):
        run.timed("sensitivity", writes)
    assert not lab.Lab(phantoms(60, 64), settings, tmp_path).done("sensitivity")
    calls.append(2)
    run.timed("sensitivity", writes)
    assert lab.Lab(phantoms(60, 64), settings, tmp_path).done("sensitivity")


def test_a_damaged_stage_made_again_with_another_result_makes_void_what_was_made_from_it(tmp_path, settings):
    def write(run, stage, content):
        for name in lab._leaves(0)[stage]:
            (run.folder / name).parent.mkdir(exist_ok=True)
            (run.folder / name).write_text(content, encoding="utf-8")

    def again(content):
        "A file of the stage is damaged, and the stage makes it again"
        (tmp_path / "compaction.csv").write_text("damaged", encoding="utf-8")
        run = lab.Lab(phantoms(60, 64), settings, tmp_path)
        with pytest.warns(UserWarning, match="compaction.csv in .*: missing or damaged"):
            lab._mend(run)
        assert not run.done("compacted") and run.done("slim")
        run.timed("compacted", lambda run: write(run, "compacted", content))
        return run

    run = lab.Lab(phantoms(60, 64), settings, tmp_path)
    for stage in ("compacted", "slim", "sensitivity"):
        run.timed(stage, lambda run, stage=stage: write(run, stage, "1"))
    trained = run.checkpoints("slim-1") / "last.safetensors"
    trained.parent.mkdir(parents=True)
    trained.touch()
    assert again("1").done("slim") and trained.exists()  # the same files as before
    assert not again("2").done("slim") and not trained.exists()
    assert list(read_json(tmp_path / "run.json")["stages"]) == ["sensitivity", "compacted"]


def test_the_second_process_on_a_folder_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path):
    hold = "import pneumoprune.lab as lab, pathlib, sys, os\nwith lab._only_one(pathlib.Path(sys.argv[1])):\n"
    hold += "    print('has it', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, tmp_path]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "has it\n"
    with pytest.raises(PneumopruneError, match=f"in use by process {first.pid} on"), lab._only_one(tmp_path):
        pass
    first.kill()
    first.wait()
    with lab._only_one(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
