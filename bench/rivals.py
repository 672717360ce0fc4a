"""`compact` beside torch-simplify, torch-pruning and torch.ao's structured pruner: four ways to act on the same masks

    pip install torch-simplify==1.1.4 torch-pruning==1.6.1
    python bench/rivals.py                  # six networks of torchvision, three ways of masking: rivals.json, rivals.md
    python bench/rivals.py --only resnet18

30 % of the channels of every convolution and linear layer are masked, those of the smallest L2 norm:

- `dim=1`: the inputs of every layer, each by itself, so that a channel nobody reads is dead;
- `dim=0`: its outputs but for the last layer's. Their biases and normalisations stay: such a channel is constant;
- `groups`: what torch-pruning counts as one group of channels goes in all of its layers, biases and normalisations too.

Every tool is used as its own documentation says, on the same masked network with its masks made permanent:

- `compact(model, example)`; its time includes the comparison of the outputs;
- `simplify(model, zeros)`, which also fuses batch normalisations (`fused`), and the same with `fuse_bn=False`;
- torch-pruning has no masks: from each of its dependency groups those channels are removed that the masks silence in
  all layers of the group;
- torch.ao's pruner takes rows: those that are zero (`dim=0`, biases handed on by `prune_bias=False`), or those of the
  same groups. Where a layer is outside its patterns it raises; then that layer is left out and it is asked again.

Times of the networks are of one image on one thread, in turns; the ratio is that to the masked network, within a turn.
"""

import argparse
import copy
import json
import platform
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import simplify
import torch
import torch_pruning as tp
import torchvision
from architectures import enliven
from torch import nn
from torch.ao.pruning._experimental.pruner import SaliencyPruner
from torch.ao.pruning._experimental.pruner.parametrization import FakeStructuredSparsity, module_contains_param
from torch.nn.utils import prune

from pneumoprune.alexnet import count_macs, count_parameters
from pneumoprune.benchmark import in_turns
from pneumoprune.compaction import compact
from pneumoprune.lab import _cpu
from pneumoprune.pruning import make_permanent

HERE = Path(__file__).parent
NETWORKS = ["alexnet", "vgg16", "resnet18", "resnet50", "mobilenet_v2", "densenet121"]
MASKS = ["dim=1", "dim=0", "groups"]
SIZE, AMOUNT = 224, 0.3
WEIGHTED = nn.Linear, nn.Conv2d

Channels = dict[str, list[int]]  # layer -> outputs


def layers(model: nn.Module) -> dict[str, nn.Module]:
    "Convolutions and linear layers, in the order of the network"
    return {name: module for name, module in model.named_modules() if isinstance(module, WEIGHTED)}


# --- masks, and the channels that they silence


def groups_of(model: nn.Module) -> list:
    "torch-pruning's groups of coupled channels, without those of the answer"
    *_, last = layers(model).values()
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=torch.randn(1, 3, SIZE, SIZE))
    return list(graph.get_all_groups(ignored_layers=[last], root_module_types=[nn.Conv2d, nn.Linear]))


def is_output(dependency) -> bool:
    "Does the group hold the outputs of this layer, and not its inputs?"
    return dependency.handler.__name__ == "prune_out_channels"


def mask(model: nn.Module, kind: str) -> nn.Module:
    "Masks of one kind, made permanent"
    if kind == "groups":
        for group in groups_of(model):
            weakest = tp.importance.GroupMagnitudeImportance(p=2)(group).argsort()
            silence(group, weakest[: round(AMOUNT * len(weakest))].tolist())
        return model
    every = list(layers(model).values())
    for layer in every if kind == "dim=1" else every[:-1]:
        if layer.weight.shape[int(kind[-1])] > 1:  # a depthwise filter has one input
            prune.ln_structured(layer, "weight", amount=AMOUNT, n=2, dim=int(kind[-1]))
    return make_permanent(model)


def silence(group, channels: list[int]) -> None:
    "Zeros for some outputs of a group, in all layers that make or scale them"
    for dependency, index in group:
        module = dependency.target.module
        if is_output(dependency) and isinstance(module, (*WEIGHTED, nn.BatchNorm2d)):
            for parameter in module.parameters():
                parameter.data[[index[i] for i in channels]] = 0


def silent(group, kind: str) -> list[int]:
    "Channels of a group that the masks silence in all of its layers, as numbered in its first"
    alive = set()
    for item in group:
        layer, outputs = item.dep.target.module, is_output(item.dep)
        if isinstance(layer, WEIGHTED) and outputs == (kind != "dim=1"):
            weight = layer.weight if outputs else layer.weight.transpose(0, 1)
            used = (weight[item.idxs] != 0).flatten(1).any(1).tolist()
            alive.update(root for root, some in zip(item.root_idxs, used, strict=True) if some)
    width = len(group[0].idxs)
    return [channel for channel in range(width) if channel not in alive]


def silenced(model: nn.Module, kind: str) -> tuple[Channels, Channels]:
    "Channels that go with whole groups: by the first layer of each group, and by every layer that makes them"
    names = {module: name for name, module in model.named_modules()}
    first, every = {}, {}
    for group in groups_of(model):
        if found := silent(group, kind):
            first[names[group[0].dep.target.module]] = found
            for dependency, index in group:
                layer = dependency.target.module
                if is_output(dependency) and isinstance(layer, WEIGHTED):
                    every[names[layer]] = sorted(index[i] for i in found)
    return first, every


# --- the tools; each returns the smaller network and a remark


def with_compact(model: nn.Module, kind: str) -> tuple[nn.Module, str]:
    return compact(model, torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))), ""


def with_simplify(model: nn.Module, kind: str) -> tuple[nn.Module, str]:
    return simplify.simplify(model, torch.zeros(1, 3, SIZE, SIZE), fuse_bn=False), ""


def with_simplify_fused(model: nn.Module, kind: str) -> tuple[nn.Module, str]:
    return simplify.simplify(model, torch.zeros(1, 3, SIZE, SIZE)), ""


def with_torch_pruning(model: nn.Module, kind: str) -> tuple[nn.Module, str]:
    channels, _ = silenced(model, kind)
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=torch.randn(1, 3, SIZE, SIZE))
    for name, index in channels.items():
        layer = model.get_submodule(name)
        cut = tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels
        graph.get_pruning_group(layer, cut, idxs=index).prune()
    return model, ""


def zero_rows(model: nn.Module) -> Channels:
    "Outputs without weights"
    rows = {
        name: (layer.weight == 0).flatten(1).all(1).nonzero().flatten().tolist()
        for name, layer in layers(model).items()
    }
    return {name: index for name, index in rows.items() if index}


def with_torch_ao(model: nn.Module, kind: str) -> tuple[nn.Module, str]:
    rows = zero_rows(model) if kind == "dim=0" else silenced(model, kind)[1]
    asked = len(rows)
    while rows:
        attempt = copy.deepcopy(model)
        config = []
        for name, index in rows.items():
            keep = torch.ones(len(attempt.get_submodule(name).weight), dtype=torch.bool)
            keep[index] = False
            config.append({"tensor_fqn": f"{name}.weight", "mask": keep, "prune_bias": kind != "dim=0"})
        pruner = SaliencyPruner({})
        pruner.prepare(attempt, config)
        try:
            return pruner.prune(), "" if len(rows) == asked else f"{len(rows)} of {asked} layers"
        except Exception as error:  # it raises plain Exceptions
            if "still contains" not in str(error):
                raise
        left = {n for n, m in pruner.traced.named_modules() if module_contains_param(m, FakeStructuredSparsity)}
        rows = {name: index for name, index in rows.items() if name not in left}
    return model, f"none of {asked} layers fits its patterns"


WAYS = {
    "compact": with_compact,
    "torch-simplify": with_simplify,
    "torch-simplify, fused": with_simplify_fused,
    "torch-pruning": with_torch_pruning,
    "torch.ao": with_torch_ao,
}


# --- measuring


def answer(model: nn.Module) -> torch.Tensor:
    "Outputs in float64 for inputs nobody has seen"
    x = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4321)).double()
    with torch.no_grad():
        return copy.deepcopy(model).double().eval()(x)


def size(model: nn.Module) -> dict[str, int]:
    return {"parameters": count_parameters(model), "macs": count_macs(model, (1, 3, SIZE, SIZE))}


def case(network: str, kind: str, repeats: int) -> list[dict]:
    "A row for each tool"
    torch.manual_seed(0)
    given = mask(enliven(torchvision.models.get_model(network)), kind).eval()
    before, expected, rows, made = size(given), answer(given), [], {}
    for tool, way in WAYS.items():
        row: dict = {"network": network, "masks": kind, "tool": tool}
        model, start = copy.deepcopy(given), time.perf_counter()
        try:
            found, row["remark"] = way(model, kind)
            row["seconds"] = round(time.perf_counter() - start, 2)
            after = size(found.eval())
            row |= {f"{name}_left": round(after[name] / before[name], 4) for name in before}
            gap = (answer(found) - expected).abs().max() / expected.abs().max()  # relative to the largest output
            row["difference"] = float(f"{gap.item():.2g}")
            made[tool] = found
        except Exception as error:  # a rival's failure is a result, told in its words
            row["remark"] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        rows.append(row)
    x = torch.randn(1, 3, SIZE, SIZE)
    with torch.inference_mode():
        calls = {
            tool: lambda model=model: model(x) for tool, model in ({"masked": copy.deepcopy(given)} | made).items()
        }
        times = in_turns(calls, repeats=repeats)
    for row in rows:
        if row["tool"] in made:
            ratio = times["masked"] / times[row["tool"]]
            row["milliseconds"] = round(times[row["tool"]].median(), 2)
            row["speedup"] = [round(ratio.quantile(q), 3) for q in (0.5, 0.25, 0.75)]
    return rows


def machine() -> dict:
    "What the numbers were measured on"
    names = ("torch", "torchvision", "torch-simplify", "torch-pruning")
    versions = {"python": platform.python_version()} | {name: version(name) for name in names}
    return {"cpu": _cpu(), "threads": torch.get_num_threads(), "image": SIZE, "masked": AMOUNT, "versions": versions}


# --- tables


def exactness(row: dict) -> str:
    "How near the answers are, in words that a reader needs no scale for"
    gap = row.get("difference")
    if gap is None:
        return "—"
    return "exact" if gap <= 1e-12 else f"{gap:.0e}".replace("e-0", "e-")


def markdown(found: dict) -> str:
    "The whole table"
    columns = [
        "network",
        "masks",
        "tool",
        "parameters",
        "MACs left",
        "difference",
        "speed-up (quartiles)",
        "s",
        "remark",
    ]
    lines = ["| " + " | ".join(columns) + " |", "|---|---|---|---:|---:|---:|---:|---:|---|"]
    for row in found["rows"]:
        cells = [row["network"], row["masks"], row["tool"]]
        if "parameters_left" in row:
            middle, low, high = row["speedup"]
            cells += [f"{row['parameters_left']:.2f}", f"{row['macs_left']:.2f}", f"{row['difference']:.0e}"]
            cells += [f"{middle:.2f} ({low:.2f}–{high:.2f})", f"{row['seconds']:.1f}"]
        else:
            cells += ["—"] * 5
        lines.append("| " + " | ".join([*cells, row["remark"].replace("|", "\\|")]) + " |")
    m = found["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in m["versions"].items())
    lines.append(f"\n{m['cpu']}, {m['threads']} thread; images {m['image']} × {m['image']}; {versions}.")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=NETWORKS, choices=NETWORKS, metavar="NETWORK")
    parser.add_argument("--repeats", type=int, default=11, help="turns of the stopwatch")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    path = HERE / "rivals.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for network in options.only:
        for kind in MASKS:
            new = case(network, kind, options.repeats)
            rows = [row for row in rows if (row["network"], row["masks"]) != (network, kind)] + new
            places = {"network": NETWORKS, "masks": MASKS, "tool": list(WAYS)}
            rows.sort(key=lambda row: [place.index(row[key]) for key, place in places.items()])
            found = {"machine": machine(), "rows": rows}
            path.write_text(json.dumps(found, indent=1) + "\n")
            (HERE / "rivals.md").write_text(markdown(found), encoding="utf-8")
            print(*(json.dumps(row) for row in new), sep="\n", flush=True)


if __name__ == "__main__":
    main()
