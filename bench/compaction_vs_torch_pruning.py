"""Compaction beside torch-pruning 1.6: the same channels removed, what is left, how fast, and is it the same function?

    pip install torch-pruning==1.6.1
    python bench/compaction_vs_torch_pruning.py

Two ways of masking the channels of a chain of layers (AlexNet, VGG-11): `dim=1` masks inputs, so that their makers are
dead; `dim=0` masks the weights of outputs, which leaves their biases: such a channel is not zero but constant. In
ResNet-18 the convolutions added to each other lose the same channels, and so do their batch normalisations.
torch-pruning is told to remove exactly the channels that the masks silence; `compact` finds them itself.
"""

import copy

import torch
import torch_pruning as tp
import torchvision
from torch import nn
from torch.nn.utils import prune

from pneumoprune.alexnet import count_macs, count_parameters
from pneumoprune.benchmark import in_turns
from pneumoprune.compaction import compact
from pneumoprune.pruning import make_permanent, prunable

SIZE = 224


def masked(model: nn.Module, dim: int) -> nn.Module:
    "The recipe's amounts along one dimension; the logits themselves are never masked"
    layers = list(prunable(model).values())
    for layer in layers if dim == 1 else layers[:-1]:
        prune.ln_structured(layer, "weight", amount=0.4 if isinstance(layer, nn.Linear) else 0.2, n=2, dim=dim)
    return make_permanent(model).eval()


def silenced(model: nn.Module, dim: int) -> dict[str, list[int]]:
    "Per layer, the output channels that the masks silence: those nobody reads, or those without weights"
    names, found = list(prunable(model)), {}
    for name, reader in zip(names, names[1:]):
        made, read = model.get_submodule(name).weight, model.get_submodule(reader).weight
        rows = made.flatten(1) if dim == 0 else read.transpose(0, 1).reshape(made.shape[0], -1)
        found[name] = (rows == 0).all(1).nonzero().flatten().tolist()
    return {name: channels for name, channels in found.items() if channels}


def residual_groups(model: nn.Module) -> list[list[str]]:
    "The convolutions of a ResNet that make the same channels, since their outputs are added"
    groups = []
    for stage in range(1, 5):
        blocks = [f"layer{stage}.{i}" for i in range(2)]
        entry = "conv1" if stage == 1 else f"{blocks[0]}.downsample.0"
        groups += [[entry, *(f"{block}.conv2" for block in blocks)], *([f"{block}.conv1"] for block in blocks)]
    return groups


def masked_resnet(model: nn.Module) -> tuple[nn.Module, dict[str, list[int]]]:
    "A fifth of every group of channels silenced, the weakest by L2 norm; per group, its first layer and the channels"
    channels = {}
    for group in residual_groups(model):
        norms = sum(model.get_submodule(name).weight.square().flatten(1).sum(1) for name in group)
        keep = torch.ones_like(norms)
        keep[norms.argsort()[: len(norms) // 5]] = 0
        channels[group[0]] = (keep == 0).nonzero().flatten().tolist()
        for name in group:
            norm_name = name.replace("conv", "bn").replace("downsample.0", "downsample.1")
            conv, norm = model.get_submodule(name), model.get_submodule(norm_name)
            prune.custom_from_mask(conv, "weight", keep.view(-1, 1, 1, 1).expand_as(conv.weight))
            for part in ("weight", "bias"):
                prune.custom_from_mask(norm, part, keep)
    return make_permanent(model).eval(), channels


def with_torch_pruning(model: nn.Module, channels: dict[str, list[int]], example: torch.Tensor) -> nn.Module:
    "Those channels removed by torch-pruning's dependency graph"
    model = copy.deepcopy(model)
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=example)
    for name, index in channels.items():
        layer = model.get_submodule(name)
        cut = tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels
        graph.get_pruning_group(layer, cut, idxs=index).prune()
    return model


def difference(model: nn.Module, other: nn.Module, x: torch.Tensor) -> float:
    "Largest difference of any output, in float64"
    exact = [copy.deepcopy(network).double() for network in (model, other)]
    with torch.no_grad():
        return (exact[0](x.double()) - exact[1](x.double())).abs().max().item()


def compare(title: str, given: nn.Module, channels: dict[str, list[int]], x: torch.Tensor) -> None:
    "One paragraph of the table"
    rival = with_torch_pruning(given, channels, x[:1]).eval()
    models = {"masks": given, "torch-pruning": rival, "compact": compact(given, x)}
    with torch.inference_mode():
        times = in_turns({name: lambda model=model: model(x[:1]) for name, model in models.items()}, repeats=15)
    for name, model in models.items():
        macs = count_macs(model, (1, 3, SIZE, SIZE))
        print(f"{title:14} {name:14} {count_parameters(model):12,} {macs:14,} "
              f"{times[name].median():12.2f} {difference(given, model, x):11.1e}")
    low, middle, high = (times["torch-pruning"] / times["compact"]).quantile([0.25, 0.5, 0.75])
    print(f"  compact is {middle:.2f} times as fast as torch-pruning (quartiles {low:.2f} to {high:.2f})")


def main() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, SIZE, SIZE)
    print(f"{'network':14} {'by':14} {'parameters':>12} {'MACs':>14} {'ms (median)':>12} {'difference':>11}")
    for network in ("alexnet", "vgg11"):
        for dim in (1, 0):
            given = masked(torchvision.models.get_model(network, num_classes=10), dim)
            compare(f"{network} dim={dim}", given, silenced(given, dim), x)
    compare("resnet18", *masked_resnet(torchvision.models.resnet18(num_classes=10)), x)


if __name__ == "__main__":
    main()
