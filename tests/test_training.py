"Training on several processes, and after a kill"

import importlib
import json
import multiprocessing
import os
import pickle
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from pneumoprune import training
from pneumoprune.alexnet import Standardise, narrow_alexnet
from pneumoprune.compaction import compact
from pneumoprune.core import PneumopruneError
from pneumoprune.cut import WiredConv2d, WiredLinear
from pneumoprune.pruning import apply_recipe
from pneumoprune.synthetic import phantoms
from pneumoprune.training import TrainSettings, fit


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    "As the processes of `attempt` have"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(folder, epochs, **options):
    "A small training"
    settings = TrainSettings(epochs=int(epochs), batch_size=32, lr=1e-3, device="cpu", precision="fp32", state_every=0)
    model = narrow_alexnet((8, 8, 8, 8, 8), (16, 16), planes=1, dropout=0.3, seed=0)
    return fit(model, phantoms(120, size=64, seed=0), settings, folder=folder, **options)


def history_of(folder):
    with safe_open(Path(folder, "last.safetensors"), "pt") as file:
        rows = json.loads(file.metadata()["history"])
    return pd.DataFrame(rows).drop(columns="seconds")


def rank(number, port, folder):
    "One of two processes"
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # as torchrun sets them
    os.environ |= group | {"RANK": number, "LOCAL_RANK": number}
    train(folder, 2)


def both(port, folder):
    processes = [multiprocessing.get_context("fork").Process(target=rank, args=(n, port, folder)) for n in "01"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(any(process.exitcode for process in processes))


def test_two_processes_take_the_same_steps(attempt, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ended = attempt([port, tmp_path / "two"], tmp_path, call="test_training:both")
    assert ended.code == 0, ended.err
    train(tmp_path / "one", 2)
    one, two = history_of(tmp_path / "one"), history_of(tmp_path / "two")
    assert two["epoch"].tolist() == [1, 2]
    assert abs(one["train_loss"] / two["train_loss"] - 1).max() < 1e-6  # the same batches and augmentation, shared out
    assert load_file(tmp_path / "two/last.safetensors").keys() == load_file(tmp_path / "one/last.safetensors").keys()


def test_no_pickle_is_written_or_read(tmp_path):
    "A state is numbers and notes: a folder of somebody else runs no code, whatever lies in it"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'mark'}",)

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pneumoprune.training._finish", stop)
        train(tmp_path / "run", 2)
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["best.safetensors", "state-1.safetensors", "state-2.safetensors"]
    for name in ("custom_checkpoint_0.pkl", "optimizer.bin", "state-3.safetensors", "random_states_0.pkl"):
        (tmp_path / "run" / name).write_bytes(pickle.dumps(Evil()))
    with pytest.warns(UserWarning, match="state-3.safetensors can't be read"):
        train(tmp_path / "run", 2)
    assert not (tmp_path / "mark").exists()


def test_killed_and_resumed_gives_the_same_numbers(attempt, tmp_path):
    killed, state = tmp_path / "killed", tmp_path / "killed/state-1.safetensors"
    assert attempt([killed, 6], tmp_path, call="test_training:train", kill_at=state).code == -9
    assert not (tmp_path / "killed/last.safetensors").exists(), "the victim finished before it was killed"
    train(tmp_path / "killed", 6)
    train(tmp_path / "whole", 6)
    killed, whole = (load_file(tmp_path / name / "last.safetensors") for name in ("killed", "whole"))
    assert all((killed[key] == whole[key]).all() for key in whole)
    pd.testing.assert_frame_equal(history_of(tmp_path / "killed"), history_of(tmp_path / "whole"), check_exact=True)


def test_the_lab_trains_as_the_committed_trainings_decided(monkeypatch):
    "The rule of bench/choose_training.py, applied to its rows"
    from pneumoprune.lab import LabSettings  # here: the processes of the other tests do without

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "bench"))
    bench = importlib.import_module("choose_training")
    arms = bench.table(pd.read_csv(bench.CSV))
    better = arms[(arms["gain"] > 2 * arms["error"]) & (arms["auc_gain"] > -2 * arms["auc_error"])]
    # what one split decided about the original, its cross-validation does not bear out
    taken = better.groupby("part")["arm"].agg(list).to_dict()
    later = {"distant": ["resample", "30-epochs+resample"]}  # decides nothing
    assert taken == {"slim": ["30-epochs"], "original": ["64@2e-4+resample"]} | later
    settings = LabSettings()
    assert settings.original == TrainSettings(**bench.CROSSED["64@2e-4"])
    assert settings.slim.final.epochs == bench.SLIM["30-epochs"][1]["epochs"]
    assert settings.masked.resample == settings.slim.final.resample == settings.slim.train.resample == 0


def test_each_epoch_leaves_a_line_in_the_log(caplog):
    with caplog.at_level("INFO", "pneumoprune.training"):
        found = train(None, 2, name="thin")
    told = [f"thin, epoch {i} of 2, validation AUC {auc:.4f}" for i, auc in enumerate(found["val_auc"], 1)]
    assert caplog.messages == told


def test_another_training_in_the_folder_is_refused(tmp_path):
    teacher = narrow_alexnet((4, 4, 4, 4, 4), (8, 8), planes=3, seed=1)
    train(tmp_path / "finished", 1)
    with pytest.raises(PneumopruneError, match=r"another training \(teacher changed\)"):
        train(tmp_path / "finished", 1, teacher=teacher)
    with pytest.raises(PneumopruneError, match=r"another training \(epochs changed\)"):
        train(tmp_path / "finished", 2)
    with pytest.raises(PneumopruneError, match="holds a training already"):
        train(tmp_path / "finished", 1, resume=False)


def gradients(net, images, precision):
    "Logits and gradients, in float32, of the layers as they are (no) or in the ways that suit a CPU (bf16)"
    one_cpu = SimpleNamespace(device=torch.device("cpu"), mixed_precision=precision, num_processes=1)
    optimizer = training._optimizer(net, TrainSettings())
    with training._suited_to_cpu(net, one_cpu, optimizer):
        net.zero_grad()
        logits = net(images)
        logits.square().sum().backward()
        for factored in optimizer.factored.values():
            factored.multiply_out()
    assert not any({"forward", "plain"} & vars(layer).keys() for layer in net.modules())
    return [logits.detach(), *(p.grad.clone() for p in net.parameters())], len(training._factored(net))


class Twice(nn.Conv2d):
    "Derives from a layer, and computes something else"

    def forward(self, x):
        return 2 * super().forward(x)


def placed():
    "A first layer whose outputs stand among constant ones"
    conv = WiredConv2d(3, 4, 3, place=torch.tensor([4, 0, 1, 2, 3]), fill=torch.tensor([0.5]))
    return nn.Sequential(Standardise(3), conv, nn.Flatten(), nn.Linear(5 * 62 * 62, 2))


def wired():
    net = narrow_alexnet((16, 24, 24, 24, 16), (40, 40), dropout=0.0, seed=0)
    small = compact(apply_recipe(apply_recipe(net)), torch.rand(4, 1, 64, 64) * 255)
    assert {WiredConv2d, WiredLinear} <= {type(layer) for layer in small.modules()}
    return small


@pytest.mark.parametrize("make", [
    wired, placed, lambda: nn.Sequential(Standardise(3), Twice(3, 4, 3), nn.Flatten(), nn.Linear(4 * 62 * 62, 2))])
def test_layers_compute_the_same_in_the_ways_of_a_cpu(make):
    torch.manual_seed(0)
    net, images = make().train(), torch.rand(4, 1, 64, 64) * 255
    (as_it_is, _), (suited, factored) = gradients(net, images, "no"), gradients(net, images, "bf16")
    for a, b in zip(as_it_is, suited):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))
    assert factored == sum(isinstance(layer, nn.Linear) for layer in net.modules())  # wired ones, too
