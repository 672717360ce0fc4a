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


def test_a_damaged_stage_made_again_with_another_result_makes_the_later_ones_void(tmp_path, settings):
    def again(content):
        "The stage's file is damaged, and the stage makes it again"
        (tmp_path / "sensitivity.csv").write_text("damaged", encoding="utf-8")
        run = lab.Lab(phantoms(60, 64), settings, tmp_path)
        with pytest.warns(UserWarning, match="sensitivity.csv in .*: missing or damaged"):
            lab._mend(run)
        assert not run.done("sensitivity") and run.done("amounts")
        run.timed("sensitivity", lambda _: (tmp_path / "sensitivity.csv").write_text(content, encoding="utf-8"))
        return run

    run = lab.Lab(phantoms(60, 64), settings, tmp_path)
    for stage, name in (("sensitivity", "sensitivity.csv"), ("amounts", "amounts.csv")):
        (tmp_path / name).write_text("1\n", encoding="utf-8")
        run.timed(stage, lambda _: None)
    trained = run.checkpoints("slim-1") / "last.safetensors"
    trained.parent.mkdir(parents=True)
    trained.touch()
    assert again("1\n").done("amounts") and trained.exists()  # the same file as before
    assert not again("2\n").done("amounts") and not trained.exists()
    assert list(read_json(tmp_path / "run.json")["stages"]) == ["sensitivity"]


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
