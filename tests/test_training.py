"Training on several processes, and after a kill"

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

SCRIPT = """
import sys
from pneumoprune.alexnet import narrow_alexnet
from pneumoprune.synthetic import phantoms
from pneumoprune.training import TrainSettings, fit

settings = TrainSettings(epochs=int(sys.argv[2]), batch_size=32, lr=1e-3, augment=0.0, device="cpu", precision="fp32")
model = narrow_alexnet((8, 8, 8, 8, 8), (16, 16), planes=1, dropout=0.0, seed=0)
history = fit(model, phantoms(120, size=64, seed=0), settings, folder=sys.argv[1])
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return path


def history_of(folder):
    rows = json.loads(Path(folder, "state.json").read_text())["history"]
    return pd.DataFrame(rows).drop(columns="seconds")


def test_two_processes_take_the_same_steps(script, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, script, tmp_path / "two", "2"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    subprocess.run([sys.executable, script, tmp_path / "one", "2"], env=environment, check=True, capture_output=True)
    one, two = history_of(tmp_path / "one"), history_of(tmp_path / "two")
    assert two["epoch"].tolist() == [1, 2]
    # the same batches, shared out: all that differs is that each half weighs its classes for itself
    assert abs(one["train_loss"] / two["train_loss"] - 1).max() < 0.1
    assert load_file(tmp_path / "two/last.safetensors").keys() == load_file(tmp_path / "one/last.safetensors").keys()


def test_killed_and_resumed_gives_the_same_numbers(script, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, script, tmp_path / "killed", "6"]
    victim = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    state = tmp_path / "killed/state.json"
    while not state.exists() and victim.poll() is None:
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not (tmp_path / "killed/last.safetensors").exists(), "the victim finished before it was killed"
    subprocess.run(command, env=environment, check=True, capture_output=True)
    subprocess.run([*command[:2], tmp_path / "whole", "6"], env=environment, check=True, capture_output=True)
    killed, whole = (load_file(tmp_path / name / "last.safetensors") for name in ("killed", "whole"))
    assert all((killed[key] == whole[key]).all() for key in whole)
    pd.testing.assert_frame_equal(history_of(tmp_path / "killed"), history_of(tmp_path / "whole"), check_exact=True)
