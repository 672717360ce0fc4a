"""Other libraries as witnesses: torch-pruning for channels that go together, MLstatkit for statistics."""

import copy

import numpy as np
import pytest
import torch
import torch_pruning as tp
from MLstatkit import Bootstrapping, Delong_test
from torch import nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck

from pneumoprune import evaluation as ev
from pneumoprune.compaction import compact
from pneumoprune.graph import channel_groups

pytestmark = pytest.mark.filterwarnings("ignore::pneumoprune.compaction.ProofWarning")
WEIGHTED = nn.Linear, nn.Conv2d


def chain():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(24, 10), nn.ReLU(), nn.Linear(10, 4),
    )  # fmt: skip


NETWORKS = {
    "chain": chain,
    "vgg": lambda: nn.Sequential(
        models.vgg.make_layers([8, "M", 16, "M", 16], batch_norm=True),
        nn.Flatten(),
        nn.Linear(1024, 20),
        nn.Linear(20, 4),
    ),
    "resnet": lambda: models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4),
    "resnet, bottleneck": lambda: models.ResNet(Bottleneck, [1, 1, 1, 1], num_classes=4),
    "squeezenet": lambda: models.squeezenet1_1(num_classes=4),
    "densenet": lambda: models.DenseNet(8, (2, 2), 16, num_classes=4),
    "mobilenet_v2": lambda: models.mobilenet_v2(width_mult=0.25, num_classes=4),
}
COUPLED = {
    "chain",
    "vgg",
    "resnet",
    "resnet, bottleneck",
}  # here every group can go: no concatenation, no grouped layer


def made(name):
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.2)
    return network, torch.randn(2, 3, 32, 32)


def last_of(network):
    return [module for module in network.modules() if isinstance(module, WEIGHTED)][-1]


def witness_groups(network, x):
    "torch-pruning's groups"
    graph = tp.DependencyGraph().build_dependency(network, example_inputs=x)
    return graph.get_all_groups(ignored_layers=[last_of(network)], root_module_types=list(WEIGHTED))


def members(network, group):
    "Producers, consumers and normalisations of one of its groups, by name"
    names, found = {module: name for name, module in network.named_modules()}, (set(), set(), set())
    for dependency, _ in group:
        module, out = dependency.target.module, dependency.handler.__name__ == "prune_out_channels"
        if isinstance(module, WEIGHTED):
            found[0 if out else 1].add(names[module])
        elif isinstance(module, nn.BatchNorm2d):
            found[2].add(names[module])
    return tuple(frozenset(part) for part in found)


@pytest.mark.parametrize("name", NETWORKS)
def test_groups_are_those_of_torch_pruning(name):
    network, x = made(name)
    ours = {tuple(map(frozenset, (g.producers, g.consumers, g.norms))) for g in channel_groups(network, x)}
    theirs = {members(network, group) for group in witness_groups(network, x)}
    assert ours and ours <= theirs
    if name in COUPLED:
        assert ours == theirs


def silence(network, x):
    "Zeros for a third of the channels of every group of torch-pruning's; per first layer of a group those channels"
    silent = {}
    names = {module: name for name, module in network.named_modules()}
    for group in witness_groups(network, x):
        channels = torch.randperm(len(group[0].idxs))[: len(group[0].idxs) // 3].sort().values.tolist()
        silent[names[group[0].dep.target.module]] = channels
        for dependency, index in group:
            module = dependency.target.module
            if dependency.handler.__name__ == "prune_out_channels" and isinstance(module, (*WEIGHTED, nn.BatchNorm2d)):
                for parameter in module.parameters():
                    parameter.data[[index[i] for i in channels]] = 0
    return silent


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.hard if name == "resnet, bottleneck" else ()) for name in NETWORKS]
)
def test_what_is_left_is_what_torch_pruning_leaves(name):
    network, x = made(name)
    silent = silence(network, x)
    theirs = copy.deepcopy(network)
    graph = tp.DependencyGraph().build_dependency(theirs, example_inputs=x)
    for root, channels in silent.items():
        layer = theirs.get_submodule(root)
        cut = tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels
        graph.get_pruning_group(layer, cut, idxs=channels).prune()
    ours, theirs = compact(network, x).state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours[key], tensor, rtol=0, atol=0)


# --- statistics


def scores(seed, n=400):
    random = np.random.default_rng(seed)
    labels = (random.random(n) < 0.4).astype(int)
    first = 1 / (1 + np.exp(-(labels + random.normal(0, 1.2, n))))
    second = np.clip(0.6 * first + 0.4 * random.random(n), 0, 1).round(2)  # rounded: ties
    return labels, first, second


@pytest.mark.parametrize("seed", range(5))
def test_delong_as_mlstatkit(seed):
    labels, first, second = scores(seed)
    z, p, *_ = Delong_test(labels, first, second)
    area, other = (ev.metrics(labels, s)["auc"] for s in (first, second))
    assert np.sign(z) == np.sign(other - area)
    assert ev._delong_p(labels, first, second) == pytest.approx(p, rel=1e-9)


slow = pytest.mark.hard  # MLstatkit draws one resample at a time


@pytest.mark.parametrize(
    "metric, name, draws",
    [
        ("accuracy", "accuracy", 300),
        pytest.param("roc_auc", "auc", 2000, marks=slow),
        pytest.param("average_precision", "average_precision", 2000, marks=slow),
    ],
)
def test_intervals_as_mlstatkit(metric, name, draws):
    labels, first, _ = scores(7)
    value, low, high = Bootstrapping(labels, first, metric, n_bootstraps=draws, random_state=0)
    ours = ev.metrics_with_intervals(labels, first, np.arange(len(labels)), resamples=2000)[name]
    assert ours[0] == pytest.approx(value, abs=1e-12)  # the same value, and ends as near as so many draws come
    assert ours[1:] == pytest.approx([low, high], abs=0.15 * (high - low))
