"A run folder: what a kill leaves, who may write, what is believed"

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import pneumoprune.lab as lab
from pneumoprune.core import MODELS, PneumopruneError, read_json, sha256, write_json
from pneumoprune.data import load_labelled
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
    told, says = os.pipe()
    first = os.fork()
    if not first:
        with lab._only_one(tmp_path):
            os.write(says, b"has it")
            time.sleep(600)
        os._exit(0)
    assert os.read(told, 10) == b"has it"
    with pytest.raises(PneumopruneError, match=f"in use by process {first} on"), lab._only_one(tmp_path):
        pass
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    with lab._only_one(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def written(run, stage):
    "Stand-in for a stage: writes the files that it promises"
    for name in lab._leaves(run.number)[stage]:
        if name not in lab._PERHAPS:
            (run.folder / name).parent.mkdir(exist_ok=True)
            (run.folder / name).write_text(f"{stage} of seed {run.number}\n", encoding="utf-8")


@pytest.fixture
def chains(monkeypatch):
    "Chains made of stand-ins, and the record of what was made; `failing` are seeds that fail at `slim`"
    made = SimpleNamespace(stages=[], failing=set())

    def stage(name, run):
        if name == "slim" and run.number in made.failing:
            raise PneumopruneError("it can't be slimmed")
        made.stages.append((run.number, name))
        table = pd.DataFrame({"split": ["val", "test"], "name": ["a", "007"], "patient": ["1", "07"], "label": [0, 1]})
        table = table.assign(**dict.fromkeys(MODELS, 0.1 + run.number))
        if run.external is not None:
            table = pd.concat([table, table[:1].assign(split="external")])
        if name == "evaluate":
            run.info["gathered"], table = lab._gathered_from(run.out, run.run.seeds), lab._gathered(run)
            run.release("predictions.csv")
        written(run, name)
        if name in ("predictions", "evaluate"):
            table.to_csv(run.folder / "predictions.csv", index=False)

    def run_chain(run):
        lab._mend(run)
        for name in lab._leaves(run.number):
            if name not in lab._ONCE and not run.done(name):
                run.timed(name, lambda run, name=name: stage(name, run))

    monkeypatch.setattr(lab, "_run_chain", run_chain)
    monkeypatch.setattr(lab, "evaluate_stage", lambda run: stage("evaluate", run))
    for name in ("sensitivity", "amounts"):
        monkeypatch.setattr(lab, f"{name}_stage", lambda run, _, name=name: run.done(name) or stage(name, run))
    monkeypatch.setattr(lab, "load_masked", lambda path: None)
    monkeypatch.setattr(lab, "load_run", lambda folder: pd.read_csv(folder / "predictions.csv", dtype=str))
    return made


def columns(seed):
    return [name + (f"-seed-{seed}" if seed else "") for name in MODELS]


def test_seeds_are_chains_of_their_own_and_may_be_added(tmp_path, settings, chains):
    run: Any = lambda seeds: lab.run_lab(None, tmp_path, replace(settings, seeds=seeds), phantom_count=60)
    table = run(2)
    assert list(table) == ["split", "name", "patient", "label", *columns(0), *columns(1)]
    assert table["patient"].tolist() == ["1", "07"] and table["slim-seed-1"].tolist() == ["1.1", "1.1"]
    first, second = (read_json(lab._place(tmp_path, number) / "run.json") for number in (0, 1))
    assert first["settings"]["original"]["seed"] + 1 == second["settings"]["original"]["seed"]
    assert first["settings"]["seed"] == second["settings"]["seed"] and first["data"] == second["data"]
    chains.stages.clear()
    run(2)
    assert not chains.stages  # a finished run is only read
    assert list(run(3))[-5:] == columns(2)
    assert {number for number, _ in chains.stages if number} == {2}
    assert [name for number, name in chains.stages if number == 0] == ["evaluate"]
    with pytest.raises(PneumopruneError, match=r"\(seeds: 3 → 2\)"):
        run(2)


def test_a_seed_that_fails_costs_its_columns_and_the_same_command_goes_on(tmp_path, settings, chains):
    chains.failing = {1}
    run: Any = lambda: lab.run_lab(None, tmp_path, replace(settings, seeds=3), phantom_count=60)
    with pytest.raises(PneumopruneError, match=r"^seed 1: it can't be slimmed\. The same command goes on"):
        run()
    assert list(pd.read_csv(tmp_path / "predictions.csv"))[4:] == [*columns(0), *columns(2)]
    chains.failing = set()
    chains.stages.clear()
    assert list(run())[4:] == [*columns(0), *columns(1), *columns(2)]
    assert chains.stages[0] == (1, "slim") and {number for number, _ in chains.stages} == {0, 1}
    chains.stages.clear()
    (tmp_path / "seed-2" / "rounds.csv").write_text("damaged", encoding="utf-8")
    with pytest.warns(UserWarning, match="the stage 'slim' is made again"):
        run()
    assert chains.stages == [(2, "slim")]  # with the same result: nothing that was made from it


def test_the_images_of_another_hospital_may_come_later(tmp_path, settings, chains, monkeypatch):
    monkeypatch.setattr(lab, "load_labelled", lambda source, size, **_: replace(phantoms(40, size), source=source))
    run: Any = lambda external: lab.run_lab(None, tmp_path, settings, external=external, phantom_count=60)
    run(None)
    chains.stages.clear()
    run("elsewhere.zip")
    assert chains.stages == [(0, "predictions"), (0, "evaluate")]
    assert read_json(tmp_path / "run.json")["external"]["images"] == 40
    with pytest.raises(PneumopruneError, match="external: elsewhere.zip → None"):
        run(None)


def test_aspect_ratios_may_come_later_and_are_recorded(tmp_path, settings, chains):
    names, out, table = phantoms(60, 64).names, tmp_path / "run", tmp_path / "aspects.csv"
    run: Any = lambda aspects=None: lab.run_lab(None, out, settings, aspects=aspects, phantom_count=60)
    heads: Any = lambda: list(pd.read_csv(out / "shortcuts.csv"))
    run()
    assert "aspect" not in heads() and "aspects" not in read_json(out / "run.json")["data"]
    chains.stages.clear()
    for aspect in (0.1, 0.2):  # another table is looked at anew
        pd.DataFrame({"name": names, "log_aspect": aspect}).to_csv(table, index=False)
        run(table)
        assert heads()[-1] == "aspect" and not chains.stages
        assert read_json(out / "run.json")["data"]["aspects"] == {"name": "aspects.csv", "sha256": sha256(table)}
    before = (out / "shortcuts.csv").stat().st_mtime_ns
    run(table)
    with pytest.raises(PneumopruneError, match="aspects: aspects.csv → None"):
        run()
    info = read_json(out / "run.json")
    del info["data"]["aspects"]  # a run of before they were recorded
    write_json(out / "run.json", info)
    run(table)
    assert (out / "shortcuts.csv").stat().st_mtime_ns == before


def test_a_table_of_images_is_recorded_and_may_be_called_otherwise(tmp_path, settings):
    folder, rows = tmp_path / "images", []
    folder.mkdir()
    for i in range(12):
        Image.fromarray(np.full((64, 64), 20 * i, np.uint8)).save(folder / f"{i}.png")
        rows.append({"file": f"{i}.png", "label": i % 2, "patient": i})
    for name in ("labels.csv", "renamed.csv"):
        pd.DataFrame(rows).to_csv(tmp_path / name, index=False)
        told = load_labelled(folder, 64, table=tmp_path / name, cache=False)
        mine = lab._identity(settings, phantoms(60, 64), told, 0)
        assert mine["external"]["table"] == {"name": name, "sha256": sha256(tmp_path / name)}
        lab._claim(tmp_path / "run", mine, "cpu")
    assert not read_json(tmp_path / "run/run.json").get("struck")


def test_each_stage_is_told_with_its_number_and_a_run_that_goes_on_with_what_is_there(
    tmp_path, settings, chains, caplog, monkeypatch
):
    monkeypatch.setattr(lab._log, "propagate", True)  # the command line, if it ran before, shows it by itself
    caplog.set_level("INFO", "pneumoprune.lab")
    chains.failing = {1}
    run: Any = lambda seeds: lab.run_lab(None, tmp_path, replace(settings, seeds=seeds), phantom_count=60)
    with pytest.raises(PneumopruneError):
        run(2)
    told = [line for line in caplog.messages if "is done" not in line]
    assert told[:2] == [f"{tmp_path}: 0 of 16 stages are done", "training 1 of 2, stage 1 of 10: original"]
    assert told[7:11] == [f"training 2 of 2, stage {k} of 10: {name}" for k, name in enumerate(lab._leaves(1), 1)][:4]
    assert told[11:] == [f"stage {k} of 10: {name}" for k, name in enumerate(lab._leaves(0), 1)][6:]
    chains.failing = set()
    caplog.clear()
    run(2)
    assert caplog.messages[0] == f"{tmp_path}: 13 of 16 stages are done (training 1: 10 of 10, training 2: 3 of 6)"
    assert caplog.messages[1] == "training 2 of 2, stage 4 of 10: slim"
    caplog.clear()
    run(2)
    assert caplog.messages == [f"{tmp_path}: all stages are done; nothing is made again"]
    (tmp_path / "seed-1/run.json").write_text("[]", encoding="utf-8")
    with pytest.raises(PneumopruneError, match=r"seed-1.run\.json"):
        run(2)


def test_check_counts_the_stages_of_all_trainings_as_the_lab_does(tmp_path, settings, caplog, monkeypatch):
    def checked(number, *stages):
        chain = lab.Lab(xrays, two, tmp_path, number)
        chain.record(stages=dict.fromkeys(stages, {}))
        (fault,) = lab.check_run(tmp_path)
        return fault

    two = replace(settings, seeds=2)
    xrays = lab._load(None, two, 60, aspects=None)
    fault = checked(0, "original", "masked")
    count = "2 of 16 stages are done (training 1: 2 of 10, training 2: 0 of 6)"
    assert fault == f"the run is unfinished: {count}, and compacted of training 1 is next or under way"
    assert "and original of training 2 is next" in checked(0, *lab._leaves(1))
    fault = checked(1, "original", "masked")
    count = "8 of 16 stages are done (training 1: 6 of 10, training 2: 2 of 6)"
    assert fault == f"the run is unfinished: {count}, and compacted of training 2 is next or under way"
    monkeypatch.setattr(lab._log, "propagate", True)
    caplog.set_level("INFO", "pneumoprune.lab")
    for name in ("_make", "load_run"):
        monkeypatch.setattr(lab, name, lambda *_: None)
    lab.run_lab(None, tmp_path, two, phantom_count=60)
    assert caplog.messages == [f"{tmp_path}: {count}"]


def test_seeds_made_one_by_one_are_gathered(tmp_path, settings, chains):
    settings = replace(settings, seeds=2)
    for number in (1, 0):
        assert lab.run_seed(None, tmp_path, settings, number, phantom_count=60) == lab._place(tmp_path, number)
    assert {name for _, name in chains.stages} == set(lab._leaves(1))
    chains.stages.clear()
    lab.run_lab(None, tmp_path, settings, phantom_count=60)
    assert chains.stages == [(0, name) for name in ("evaluate", "sensitivity", "amounts")]
    with pytest.raises(PneumopruneError, match="the run has the seeds 0 to 1"):
        lab.run_seed(None, tmp_path, settings, 2, phantom_count=60)


@pytest.mark.hard
def test_two_seeds_side_by_side_end_as_one_after_the_other(tmp_path, settings, capfd):
    settings = replace(settings, seeds=2, conv=(16,) * 5, linear=(32, 32), amounts=())
    rows = {jobs: lab.run_lab(None, tmp_path / str(jobs), settings, jobs=jobs, phantom_count=60).predictions
            for jobs in (1, 2)}
    told = capfd.readouterr().err
    for seed in (0, 1):
        assert f"seed {seed}: original, epoch 1 of " in told and f"seed {seed}: predictions is done" in told
    pd.testing.assert_frame_equal(rows[1], rows[2], atol=1e-6)
    assert not np.allclose(rows[1]["slim"], rows[1]["slim-seed-1"])
    assert lab.check_run(tmp_path / "2") == []
    for number in (0, 1):
        assert not list((lab._place(tmp_path / "2", number) / "models").glob("*.damaged"))


@pytest.mark.hard
def test_a_seed_whose_process_is_killed_is_named_and_leaves_the_other(tmp_path, settings):
    settings = replace(settings, seeds=2, conv=(16,) * 5, linear=(32, 32), amounts=())
    code = "import os, sys, pickle, pneumoprune.lab as lab\nsettings = pickle.load(sys.stdin.buffer)\n"
    code += "lab.run_lab(None, sys.argv[1], settings, jobs=2, phantom_count=60)"
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert first.stdin and first.stderr
    first.stdin.write(pickle.dumps(settings))
    first.stdin.close()
    holder = tmp_path / "run/seed-1/.lock-holder.json"
    while not holder.exists() and first.poll() is None:
        time.sleep(0.05)
    os.kill(read_json(holder)["pid"], 9)
    said = first.stderr.read().decode()
    assert first.wait() and "the process of seed 1 ended with -9" in said
    table = pd.read_csv(tmp_path / "run/predictions.csv")
    assert "slim" in table and "slim-seed-1" not in table
