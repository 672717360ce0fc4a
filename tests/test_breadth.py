"""Which architectures `compact` handles: small ones of every kind here, the whole table with `make test-hard`."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.swin_transformer import SwinTransformerBlockV2

from pneumoprune.alexnet import count_parameters
from pneumoprune.compaction import compact

BENCH = Path(__file__).parent.parent / "bench"
sys.path.insert(0, str(BENCH))
import architectures  # noqa: E402
import rivals  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::pneumoprune.compaction.ProofWarning")


def lraspp():
    return models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)


SMALL = {  # name: (network, image, largest part of the parameters left along dim=1 and along dim=0)
    "densenet": (lambda: models.DenseNet(8, (2, 2), 16, num_classes=4), 32, 0.85, 0.85),
    "mobilenet_v3": (lambda: models.mobilenet_v3_small(num_classes=4), 32, 0.85, 0.85),
    "shufflenet": (lambda: models.ShuffleNetV2([2, 1, 1], [8, 16, 32, 64, 64], num_classes=4), 64, 0.8, 0.8),
    "convnext": (
        lambda: models.ConvNeXt([CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)], num_classes=4), 32, 0.85, 0.85
    ),
    "vit": (lambda: models.VisionTransformer(32, 8, 2, 4, 32, 128, num_classes=4), 32, 0.9, 0.95),
    "swin": (lambda: models.SwinTransformer([2, 2], 16, [2, 2], [2, 4], [4, 4], num_classes=4), 32, 0.9, 0.95),
    "swin v2": (
        lambda: models.SwinTransformer([2, 2], 16, [2, 2], [2, 4], [4, 4], num_classes=4, block=SwinTransformerBlockV2),
        32, 0.9, 0.95,
    ),
    "lraspp": (lraspp, 64, 0.85, 0.85),
    "timm resnet": (lambda: timm.create_model("test_resnet", num_classes=4), 64, 0.85, 0.85),
    "timm efficientnet": (lambda: timm.create_model("test_efficientnet", num_classes=4), 64, 0.9, 0.9),
    "timm vit": (lambda: timm.create_model("test_vit", num_classes=4), 160, 0.95, 0.95),
}  # fmt: skip


HALF = {
    ("mobilenet_v3", 1),
    ("lraspp", 0),
    ("swin", 0),
    ("swin v2", 1),
}  # what their siblings show as well, in less time


@pytest.mark.parametrize("name, dim", [(name, dim) for name in SMALL for dim in (1, 0) if (name, dim) not in HALF])
def test_small_networks_of_every_kind(name, dim):
    make, size, *most = SMALL[name]
    torch.manual_seed(0)
    network = architectures.mask(architectures.enliven(make().double()), dim)
    small = compact(network, torch.randn(2, 3, size, size).double())
    assert architectures.difference(network, small, (3, size, size)) <= 1e-12
    assert count_parameters(small) <= most[1 - dim] * count_parameters(network)


def test_a_third_of_the_hidden_units_of_a_transformer():
    torch.manual_seed(0)
    network = architectures.enliven(models.VisionTransformer(32, 8, 2, 4, 32, 128, num_classes=4))
    for block in network.encoder.layers:
        torch.nn.utils.prune.ln_structured(block.mlp[3], "weight", amount=0.3, n=2, dim=1)
    small = compact(network, torch.randn(2, 3, 32, 32))
    assert architectures.difference(network, small, (3, 32, 32)) <= 1e-12
    kept = [tuple(block.mlp[i].weight.shape) for block in small.encoder.layers for i in (0, 3)]
    assert kept == [(90, 32), (32, 90)] * 2


# --- the committed tables


def test_the_table_of_architectures():
    table = pd.read_csv(architectures.CSV)
    rows = table.groupby(["source", "network"])
    assert (rows.size() == 2).all() and not table.outcome.isin(["wrong", "crashed"]).any()
    assert {(source, name) for source, _, name in architectures.networks()} >= set(rows.groups)
    strict = rows.outcome.agg(lambda found: set(found) == {"strict"}).groupby("source").agg(["sum", "size"])
    assert strict.loc["torchvision"].tolist() == [22, 22] and strict.loc["segmentation"].tolist() == [6, 6]
    assert strict.loc["timm", "sum"] >= 40 / 53 * strict.loc["timm", "size"]
    text = architectures.MARKDOWN.read_text(encoding="utf-8")
    assert text.startswith(architectures.summary(table))


def test_the_table_of_rivals():
    found = json.loads((BENCH / "rivals.json").read_text())
    cases = {(row["network"], row["masks"], row["tool"]) for row in found["rows"]}
    assert len(cases) == len(found["rows"]) == len(rivals.NETWORKS) * len(rivals.MASKS) * len(rivals.WAYS)
    assert (BENCH / "rivals.md").read_text(encoding="utf-8") == rivals.markdown(found)
    for row in found["rows"]:
        if row["tool"] == "compact":
            assert row["difference"] <= (1e-6 if row["masks"] == "dim=0" else 1e-12) and row["parameters_left"] < 0.75


# --- all of them, one process each


@pytest.mark.hard
@pytest.mark.parametrize("source, name", [(source, name) for source, _, name in architectures.networks()])
def test_every_architecture(source, name):
    known = pd.read_csv(architectures.CSV).set_index(["source", "network", "dim"])
    for dim, now in architectures.rows_of(source, name, 1800).items():
        before = known.loc[(source, name, dim)]
        assert now["outcome"] not in ("wrong", "crashed"), now
        if before.outcome == "strict":
            assert now["outcome"] == "strict" and now["left"] <= before.left + 0.005, now


@pytest.mark.hard
def test_a_third_of_the_hidden_units_of_vit_b_16():
    torch.manual_seed(0)
    network = architectures.enliven(models.vit_b_16())
    for block in network.encoder.layers:
        torch.nn.utils.prune.ln_structured(block.mlp[3], "weight", amount=0.3, n=2, dim=1)
    small = compact(network, torch.randn(2, 3, 224, 224))
    assert count_parameters(small) <= 0.85 * count_parameters(network)
    assert architectures.difference(network, small, (3, 224, 224)) <= 1e-12


@pytest.mark.hard
def test_the_command_prints_its_list():
    done = subprocess.run([sys.executable, str(BENCH / "architectures.py"), "--list"], capture_output=True, text=True)
    names = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("timm")]
    print(len(names), *names)
    assert len(names) == len(set(names)) == 53
