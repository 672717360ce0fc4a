"""Which architectures `compact` handles: one row per network and dimension, in architectures.csv and architectures.md

    pip install timm
    python bench/architectures.py                      # what is listed below; rows already there are kept
    python bench/architectures.py --only vit_b_16      # these alone
    python bench/architectures.py --all                # every classification network of torchvision

Every network gets random numbers in place of zeros and ones (norms, biases, layer scales), so that nothing is right by
accident. Then `ln_structured` masks 30 % of each convolution and linear layer along one dimension; along dim=0 the last
layer keeps its rows. The compacted network is compared in float64 on inputs that the proof has not seen.

A network is `strict` where strict mode takes it, `loose` where only `strict=False` does, `refused` where
neither does, and `wrong` where the answers differ. Each runs in a process of its own, one at a time.
"""

import argparse
import copy
import hashlib
import multiprocessing
import os
import sys
import time
import warnings
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
CSV, MARKDOWN = HERE / "architectures.csv", HERE / "architectures.md"

# one network of each of the 22 families of classifiers
CLASSIFIERS = {
    "AlexNet": "alexnet", "ConvNeXt": "convnext_tiny", "DenseNet": "densenet121", "EfficientNet": "efficientnet_b0",
    "EfficientNetV2": "efficientnet_v2_s", "GoogLeNet": "googlenet", "Inception v3": "inception_v3",
    "MaxViT": "maxvit_t", "MNASNet": "mnasnet0_5", "MobileNetV2": "mobilenet_v2", "MobileNetV3": "mobilenet_v3_small",
    "RegNet X": "regnet_x_400mf", "RegNet Y": "regnet_y_400mf", "ResNet": "resnet50", "ResNeXt": "resnext50_32x4d",
    "ShuffleNetV2": "shufflenet_v2_x1_0", "SqueezeNet": "squeezenet1_1", "Swin": "swin_t", "Swin v2": "swin_v2_t",
    "VGG": "vgg11_bn", "ViT": "vit_b_16", "Wide ResNet": "wide_resnet50_2",
}  # fmt: skip
SEGMENTATION = [
    "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "deeplabv3_resnet101", "fcn_resnet50", "fcn_resnet101",
    "lraspp_mobilenet_v3_large",
]  # fmt: skip
VIDEO = ["r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v2_s", "swin3d_t"]
TIMM = {
    "convnet": [
        "convmixer_768_32", "convnext_atto", "cs3darknet_s", "densenet121", "dla46_c", "dpn48b", "efficientnet_b0",
        "ese_vovnet19b_slim", "fasternet_t0", "ghostnet_050", "hgnetv2_b0", "hrnet_w18_small", "inception_next_atto",
        "lcnet_050", "legacy_seresnet18", "mobilenetv3_small_050", "mobilenetv4_conv_small_035", "mobileone_s0",
        "nf_regnet_b0", "regnety_002", "repvgg_a0", "res2net50_26w_4s", "resnest14d", "resnet10t", "resnetv2_50x1_bit",
        "rexnet_100", "selecsls42b", "skresnet18", "tresnet_m", "xception41",
    ],
    "transformer": [
        "cait_xxs24_224", "convit_tiny", "crossvit_tiny_240", "deit_tiny_distilled_patch16_224",
        "eva02_tiny_patch14_224", "hiera_tiny_224", "pit_ti_224", "pvt_v2_b0", "swin_tiny_patch4_window7_224",
        "twins_svt_small", "vit_tiny_patch16_224", "volo_d1_224", "xcit_nano_12_p16_224",
    ],
    "hybrid": [
        "coatnet_pico_rw_224", "edgenext_xx_small", "efficientformer_l1", "fastvit_t8", "levit_128s", "mobilevit_xxs",
        "poolformer_s12",
    ],
    "mixer": ["gmlp_ti16_224", "mixer_s16_224", "resmlp_12_224"],
}  # fmt: skip

SIZES = {"inception_v3": 75, "maxvit_t": 224}  # torchvision: smallest images that go through, or 64
COLUMNS = ["source", "family", "network", "dim", "outcome", "reason", "parameters", "left", "difference", "seconds",
           "image", "code", "versions"]  # fmt: skip


def networks(every: bool = False) -> list[tuple[str, str, str]]:
    "(source, family, name) of every row; names are unique within a source"
    rows = [("torchvision", family, name) for family, name in CLASSIFIERS.items()]
    if every:
        import torchvision

        known = {name for *_, name in rows}
        names = torchvision.models.list_models(module=torchvision.models)
        rows += [("torchvision", "", name) for name in names if name not in known]
    rows += [("segmentation", "", name) for name in SEGMENTATION] + [("video", "", name) for name in VIDEO]
    return rows + [("timm", family, name) for family, names in TIMM.items() for name in names]


def code() -> str:
    "Fingerprint of the code that is tried: rows of other code are made anew"
    names = "alexnet", "channels", "graph", "cut", "compaction"
    files = [HERE.parent / "pneumoprune" / f"{name}.py" for name in names]
    return hashlib.sha256(b"".join(file.read_bytes() for file in [*files, Path(__file__)])).hexdigest()[:12]


def versions() -> str:
    "Of the libraries that the networks come from"
    from importlib.metadata import version

    return " ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm"))


# --- one network, in a process of its own


def make(source: str, name: str):
    "The network, without trained weights"
    if source == "timm":
        import timm

        return timm.create_model(name, num_classes=10)
    import torchvision

    settings = {"num_classes": 10, "weights": None}
    if source == "segmentation":
        settings["weights_backbone"] = None
    if name.startswith("vit"):
        settings["image_size"] = 64
    if name in ("googlenet", "inception_v3"):
        settings |= {"aux_logits": False, "init_weights": False}
    return torchvision.models.get_model(name, **settings)


def image_size(source: str, name: str, model) -> tuple[int, ...]:
    "Shape of a small image, or clip, that goes through the network"
    import torch

    if source == "video":
        return (3, 16, 224, 224) if name in ("s3d", "mvit_v2_s") else (3, 8, 32, 32)
    if source == "timm":
        settings = model.pretrained_cfg
        whole = settings["input_size"][-1]
        sizes = [whole] if settings.get("fixed_input_size") else [s for s in (64, 96, 128) if s < whole] + [whole]
    else:
        sizes = [SIZES.get(name, 64)]
    for size in sizes[:-1]:
        try:
            with torch.no_grad():
                model(torch.randn(2, 3, size, size))
            return 3, size, size
        except Exception as error:  # any network's own complaint about the size
            print(f"{name}: not at {size}: {error}", file=sys.stderr)
    return 3, sizes[-1], sizes[-1]


def enliven(model, seed: int = 0):
    "Numbers as after training: no tensor is constant, in evaluation mode"
    import torch

    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_(0, 0.2, generator=random)
            module.running_var.uniform_(0.5, 1.5, generator=random)
    for parameter in model.parameters():
        value = parameter.data
        if value.numel() > 1 and not (value == value.flatten()[0]).all():
            continue
        first = value.flatten()[0].item() if value.numel() else 0.0
        if first == 0:
            value.normal_(0, 0.1, generator=random)
        else:  # a norm's scale, or that of a branch
            value.uniform_(0.5, 1.5, generator=random).mul_(first if abs(first) > 0.01 else 0.3)
    return model.eval()


def mask(model, dim: int):
    "30 % of the channels of every convolution and linear layer along `dim`, those of the smallest L2 norm"
    from torch import nn
    from torch.nn.utils import prune

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    for layer in layers if dim == 1 else layers[:-1]:
        if layer.weight.shape[dim] > 1:
            prune.ln_structured(layer, "weight", amount=0.3, n=2, dim=dim)
    return model


def tensors(answer) -> list:
    "The tensors of an answer, whatever holds them"
    import torch

    if isinstance(answer, torch.Tensor):
        return [answer]
    values = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, tuple | list) else ()
    return [tensor for value in values for tensor in tensors(value)]


def difference(model, other, shape: tuple[int, ...]) -> float:
    "Largest relative difference in float64, on noise and on images of positive numbers; infinite for useless answers"
    import torch

    from pneumoprune.alexnet import copy_network
    from pneumoprune.pruning import make_permanent

    random = torch.Generator().manual_seed(4321)
    x = torch.cat([torch.randn(2, *shape, generator=random), torch.rand(1, *shape, generator=random)]).double()
    with torch.no_grad():
        # attention reads weights that no hook has masked in double precision: masks are made permanent first
        plain = make_permanent(model), copy_network(other)
        expected, found = (tensors(network.double().eval()(x)) for network in plain)
    if any(not e.isfinite().all() or torch.equal(e[0], e[1]) for e in expected):
        return float("nan")
    return max(((e - f).abs().max() / e.abs().max()).item() for e, f in zip(expected, found, strict=True))


def attempt(source: str, name: str) -> dict[int, dict]:
    "What becomes of one network, by dimension"
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model = make(source, name).eval()
    shape = image_size(source, name, model)
    enliven(model)
    return {dim: compacted(mask(copy.deepcopy(model), dim), shape, dim) for dim in (1, 0)}


def compacted(model, shape: tuple[int, ...], dim: int) -> dict:
    "What becomes of one masked network"
    import torch

    from pneumoprune import CompactionError, compact
    from pneumoprune.alexnet import count_parameters

    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    found: dict = {"image": "x".join(map(str, shape[1:])), "reason": "", "outcome": "refused"}
    for strict in (True, False):
        start = time.perf_counter()
        try:
            small = compact(model, example, strict=strict)
        except Exception as error:  # a CompactionError is an answer; anything else is a fault, and is told
            kind = "" if isinstance(error, CompactionError) else f"{type(error).__name__}: "
            found["reason"] = found["reason"] or " ".join(f"{kind}{error}".split())[:300]
            found["outcome"] = "refused" if not kind else "crashed"
            continue
        found["seconds"] = round(time.perf_counter() - start, 1)
        found["outcome"] = "strict" if strict else "loose"
        parameters = count_parameters(model), count_parameters(small)
        found |= {"parameters": parameters[0], "left": round(parameters[1] / parameters[0], 4)}
        found["difference"] = difference(model, small, shape)
        if not found["difference"] <= (1e-12 if dim == 1 else 1e-5):  # constants are rounded to float32 once
            found["outcome"] = "wrong"
        break
    return found


def _send(pipe, source: str, name: str) -> None:
    pipe.send(attempt(source, name))


# --- all of them


def rows_of(source: str, name: str, seconds: int) -> dict[int, dict]:
    "What becomes of one network, by dimension, found by another process within a time limit"
    context = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")  # a fork has imported already
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(theirs, source, name))
    process.start()
    theirs.close()
    try:
        if ours.poll(seconds):
            return ours.recv()
        found = {"outcome": "timed out", "reason": f"more than {seconds} s"}
    except EOFError:
        process.join()
        found = {"outcome": "crashed", "reason": f"the process ended with {process.exitcode}"}
    finally:
        process.kill()
        process.join()
    return {1: found, 0: found}


def write(table: pd.DataFrame) -> None:
    "Both files, whole"
    table.to_csv(CSV, index=False, float_format="%.4g")
    columns = ["source", "family", "network", "dim", "outcome", "left", "difference", "seconds", "reason"]
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in table[columns].itertuples(index=False):
        cells = ["" if pd.isna(cell) else f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    MARKDOWN.write_text(summary(table) + "\n\n" + "\n".join(lines) + "\n", encoding="utf-8")


def summary(table: pd.DataFrame) -> str:
    "Networks handled on both dimensions, by source, as a Markdown table"
    lines = ["| networks | tried | strict on both dims | loose | refused or worse | left, dim=1 | left, dim=0 |",
             "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for source, rows in table.groupby("source", sort=False):
        outcomes = rows.groupby("network").outcome.agg(set)
        strict = sum(found == {"strict"} for found in outcomes)
        loose = sum("loose" in found and found <= {"strict", "loose"} for found in outcomes)
        left = []
        for dim in (1, 0):
            some = rows[(rows.dim == dim) & rows.outcome.isin(["strict", "loose"])].left
            left.append(f"{some.min():.2f}–{some.max():.2f}" if len(some) else "—")
        rest = len(outcomes) - strict - loose
        lines.append(f"| {source} | {len(outcomes)} | {strict} | {loose} | {rest} | {left[0]} | {left[1]} |")
    return "\n".join(lines)


def read() -> pd.DataFrame:
    "The rows that are there"
    return pd.read_csv(CSV, keep_default_na=True) if CSV.exists() else pd.DataFrame(columns=COLUMNS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", metavar="NAME", help="only networks of these names, made anew")
    parser.add_argument("--source", choices=["torchvision", "segmentation", "video", "timm"])
    parser.add_argument("--all", action="store_true", help="every classification network of torchvision")
    parser.add_argument("--failed", action="store_true", help="only networks that were not handled strictly")
    parser.add_argument("--list", action="store_true", help="print the networks and stop")
    parser.add_argument("--limit", type=int, default=600, help="seconds for one network")
    options = parser.parse_args()
    if options.list:
        print(*map(" ".join, networks(options.all)), sep="\n")
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import timm  # noqa: F401, for the processes to come
    import torchvision  # noqa: F401

    import pneumoprune.compaction  # noqa: F401

    table, made = read(), {"code": code(), "versions": versions()}
    order = {(source, name): i for i, (source, _, name) in enumerate(networks(True))}
    for source, family, name in networks(options.all):
        if (options.only and name not in options.only) or (options.source and source != options.source):
            continue
        here = (table.source == source) & (table.network == name)
        same = here & (table.code == made["code"]) & (table.versions == made["versions"])
        handled = here & (table.outcome == "strict")
        if not options.only and (same.sum() == 2 or (options.failed and handled.sum() == 2)):
            continue
        first = {"source": source, "family": family, "network": name}
        rows = [first | {"dim": dim} | row | made for dim, row in rows_of(source, name, options.limit).items()]
        table = pd.concat([table[~here], pd.DataFrame(rows)], ignore_index=True)[COLUMNS]
        place = [order[row] for row in zip(table.source, table.network)]
        table = table.assign(place=place).sort_values(["place", "dim"], ascending=[True, False], kind="stable")
        table = table.drop(columns="place").reset_index(drop=True)
        write(table)
        for row in rows:
            print(source, name, f"dim={row['dim']}:", row["outcome"], row.get("left", ""), row["reason"], flush=True)
    print(summary(table))


if __name__ == "__main__":
    main()
