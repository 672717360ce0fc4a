"""Compaction beside torch-pruning 1.6: the same channels removed, what is left, how fast, and is it the same function?

    pip install torch-pruning==1.6.1
    python bench/compaction_vs_torch_pruning.py

Two ways of masking the channels of a chain of layers (AlexNet, VGG-11): `dim=1` masks inputs, so that their makers are
dead; `dim=0` masks the weights of outputs, which leaves their biases: such a channel is not zero but constant.
torch-pruning is told to remove exactly the channels that the masks silence; `compact` finds them itself.
"""

import copy
import statistics
import time

import torch
import torch_pruning as tp
import torchvision
from torch import nn
from torch.nn.utils import prune

from pneumoprune.alexnet import count_macs, count_parameters
from pneumoprune.compaction import compact
from pneumoprune.pruning import make_permanent, prunable

SIZE, REPEATS = 224, 15


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


def with_torch_pruning(model: nn.Module, channels: dict[str, list[int]], example: torch.Tensor) -> nn.Module:
    "Those channels removed by torch-pruning's dependency graph"
    model = copy.deepcopy(model)
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=example)
    for name, index in channels.items():
        layer = model.get_submodule(name)
        cut = tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels
        graph.get_pruning_group(layer, cut, idxs=index).prune()
    return model


def milliseconds(models: dict[str, nn.Module], x: torch.Tensor) -> dict[str, list[float]]:
    "Batch 1, one thread, in turn"
    times = {name: [] for name in models}
    with torch.inference_mode():
        for repeat in range(REPEATS + 2):
            for name, model in models.items():
                start = time.perf_counter()
                model(x)
                if repeat >= 2:
                    times[name].append(1000 * (time.perf_counter() - start))
    return times


def difference(model: nn.Module, other: nn.Module, x: torch.Tensor) -> float:
    "Largest difference of any output, in float64"
    exact = [copy.deepcopy(network).double() for network in (model, other)]
    with torch.no_grad():
        return (exact[0](x.double()) - exact[1](x.double())).abs().max().item()


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(4, 3, SIZE, SIZE)
    print(f"{'network':8} {'dim':>3} {'by':14} {'parameters':>12} {'MACs':>14} {'ms (median)':>12} {'difference':>11}")
    for network in ("alexnet", "vgg11"):
        for dim in (1, 0):
            given = masked(torchvision.models.get_model(network, num_classes=10), dim)
            models = {
                "masks": given,
                "torch-pruning": with_torch_pruning(given, silenced(given, dim), x[:1]).eval(),
                "compact": compact(given, x),
            }
            times = milliseconds(models, x[:1])
            for name, model in models.items():
                macs = count_macs(model, (1, 3, SIZE, SIZE))
                print(f"{network:8} {dim:3} {name:14} {count_parameters(model):12,} {macs:14,} "
                      f"{statistics.median(times[name]):12.2f} {difference(given, model, x):11.1e}")
            ratios = [a / b for a, b in zip(times["torch-pruning"], times["compact"])]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(f"  compact is {middle:.2f} times as fast as torch-pruning (quartiles {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
