"`pneumoprune lab` itself under `torchrun` and `accelerate launch`: one voice, one set of files, the same losses"

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pneumoprune.alexnet import narrow_alexnet
from pneumoprune.core import read_json
from pneumoprune.lab import _limited, check_run, lab_settings
from pneumoprune.synthetic import phantoms
from pneumoprune.training import fit

HERE = Path(sys.executable).parent
TORCHRUN = [HERE / "torchrun", "--standalone", "--nproc_per_node", "2", "--no-python"]
ACCELERATE = [HERE / "accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--no_python"]
OPTIONS: dict[str, Any] = dict(epochs=2, size=64, limit=200)


def lab(launcher: list, out: Path, *more: str) -> subprocess.Popen:
    "The command, begun"
    options = [text for name, value in OPTIONS.items() for text in (f"--{name}", str(value))]
    command = [*launcher, HERE / "pneumoprune", "lab", "--quick", *options, "--out", out, *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([str(part) for part in command], text=True, env=environment, cwd=out.parent,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def said(err: str) -> list[str]:
    "The lines that are ours"
    return [line for line in err.splitlines() if line.startswith("pneumoprune:") and "note:" not in line]


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists() and process.poll() is None:
        time.sleep(0.05)
    assert path.exists(), process.communicate()[1]


def rank_1(out: Path) -> int:
    "The process that helps, by its folder"
    for status in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = status.read_bytes().split(b"\0")
            command = (status.parent / "cmdline").read_bytes()
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
        if b"RANK=1" in variables and str(out).encode() in command:
            return int(status.parent.name)
    raise AssertionError("no process of rank 1")


@pytest.mark.hard
def test_interrupted_and_finished_by_two_processes(tmp_path):
    out = tmp_path / "run"
    first = lab(TORCHRUN, out)
    wait_for(out / "checkpoints/masked-1/last.safetensors", first)
    first.send_signal(signal.SIGINT)
    answer, err = first.communicate(timeout=120)
    again = "pneumoprune: interrupted; give the same command again (lab goes on from its last recorded state)"
    assert first.returncode and not answer and said(err) == [again]
    second = lab(ACCELERATE, out)
    answer, err = second.communicate(timeout=600)
    assert second.returncode == 0 and not said(err) and answer.count("PHANTOMS") == 1
    assert err.count("a smoke run") == 1 and err.count("slim-int8: 0/") <= 1
    assert check_run(out) == [] and not list(out.rglob("*.damaged"))

    settings = lab_settings(quick=True, synthetic=True, **OPTIONS)
    model = narrow_alexnet(settings.conv, settings.linear, seed=0)
    alone = fit(model, _limited(phantoms(600, 64), 200, 0), settings.original)
    shared = pd.read_csv(out / "history.csv")
    shared = shared[shared["model"] == "original"].reset_index(drop=True)
    assert np.allclose(shared["train_loss"][0], alone["train_loss"][0], rtol=1e-6)  # dropout and all
    assert np.allclose(shared["val_loss"], alone["val_loss"], rtol=1e-4)
    seconds = read_json(out / "run.json")["seconds"]["original"]
    assert np.isclose(seconds, shared["seconds"].sum())


@pytest.mark.hard
def test_a_process_that_is_killed_ends_the_other_and_the_folder_is_free(tmp_path):
    out = tmp_path / "run"
    first = lab(TORCHRUN, out)
    wait_for(out / "checkpoints", first)
    os.kill(rank_1(out), signal.SIGKILL)
    answer, err = first.communicate(timeout=120)
    (line,) = said(err)
    assert first.returncode and not answer
    assert "interrupted" in line or "another process of this run has ended" in line


@pytest.mark.hard
def test_a_mistake_is_told_once(tmp_path):
    for more in (["--data", "nowhere.zip"], ["--limit", "3"], ["--nonsense"]):
        process = lab(TORCHRUN, tmp_path / "run", *more)
        _, err = process.communicate(timeout=120)
        assert process.returncode and len(said(err)) == 1, err
