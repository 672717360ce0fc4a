"Networks in files: what comes back is what was written, or nothing is written; checkpoints of other people's making"

import argparse
import datetime
import enum
import importlib.util
import json
import sys
import warnings
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune
from torch.utils._pytree import tree_leaves

from pneumoprune import checkpoints
from pneumoprune.channels import CompactionError
from pneumoprune.checkpoints import _without_values, compact_file
from pneumoprune.compaction import compact
from pneumoprune.core import open_onnx
from pneumoprune.networks import export_network, load_network, save_network

pytestmark = pytest.mark.filterwarnings("ignore")


def answers(model, *inputs):
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(model(*inputs)) if isinstance(leaf, torch.Tensor)]


def same(model, path, *inputs, **tolerance):
    "Save, load, compare; returns the loaded network"
    save_network(model, path)
    loaded = load_network(path)
    torch.manual_seed(0)  # some layers draw random numbers even in evaluation
    expected = answers(model.eval(), *(x.clone() for x in inputs))
    torch.manual_seed(0)
    torch.testing.assert_close(answers(loaded, *(x.clone() for x in inputs)), expected, **tolerance)
    return loaded


def masked(model, dim=1, amount=0.4):
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.shape[dim] > 3:
            prune.ln_structured(module, "weight", amount, 2, dim)
    return model.eval()


class Call(nn.Module):
    "A module called in a way of its own, or a function of a convolution's output"

    def __init__(self, call, part=None):
        super().__init__()
        self.call, self.part = call, part or nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.call(self.part, x)


# --- layers of torch.nn

PIXELS = {1: (2, 4, 8), 2: (2, 4, 8, 8), 3: (2, 4, 6, 6, 6)}
LAYERS = [(nn.Linear(8, 3, bias=False), (2, 4, 8)), (nn.PReLU(4), PIXELS[2]), (nn.ReLU(True), PIXELS[2])]
for d, shape in PIXELS.items():

    def layer(name, *args, d=d, shape=shape, **kwargs):
        LAYERS.append((getattr(nn, f"{name}{d}d")(*args, **kwargs), shape))

    for mode in ("zeros", "circular", "reflect", "replicate"):
        layer("Conv", 4, 6, 3, padding=1, groups=2, padding_mode=mode, bias=False)
    layer("Conv", 4, 6, 3, padding="same", dilation=2)
    layer("ConvTranspose", 4, 6, 3, stride=2, padding=1, output_padding=1)
    layer("BatchNorm", 4)
    layer("BatchNorm", 4, 1e-3, None, affine=False, track_running_stats=False)
    layer("InstanceNorm", 4, affine=True)
    layer("MaxPool", 3, 2, 1, ceil_mode=True)
    layer("AvgPool", 2), layer("LPPool", 2, 2), layer("AdaptiveAvgPool", 3), layer("AdaptiveMaxPool", 3)
    layer("Dropout"), layer("ConstantPad", 1, 0.5)
    for name in ("ReflectionPad", "ReplicationPad", "ZeroPad", "CircularPad"):
        layer(name, 1)
for name in (
    "CELU ELU GELU GLU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid Mish RReLU ReLU6 SELU SiLU "
    "Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink Identity Dropout AlphaDropout FeatureAlphaDropout Flatten "
    "Softmax2d"
).split():
    LAYERS.append((getattr(nn, name)(), PIXELS[2]))
LAYERS += [
    (nn.Softmax(1), PIXELS[2]), (nn.Softmin(1), PIXELS[2]), (nn.LogSoftmax(1), PIXELS[2]), (nn.GELU("tanh"), PIXELS[2]),
    (nn.Threshold(0.1, 0.2), PIXELS[2]), (nn.ChannelShuffle(2), PIXELS[2]), (nn.PixelShuffle(2), PIXELS[2]),
    (nn.PixelUnshuffle(2), PIXELS[2]), (nn.LocalResponseNorm(3), PIXELS[2]), (nn.CrossMapLRN2d(3), PIXELS[2]),
    (nn.GroupNorm(2, 4), PIXELS[2]), (nn.LayerNorm((8, 8), bias=False), PIXELS[2]), (nn.RMSNorm(8), PIXELS[2]),
    (nn.LayerNorm(8, elementwise_affine=False), PIXELS[2]), (nn.SyncBatchNorm(4), PIXELS[2]), (nn.Unfold(2), PIXELS[2]),
    (nn.Fold((8, 8), 2, stride=2), (2, 16, 16)), (nn.Unflatten(1, (2, 2)), PIXELS[2]), (nn.Upsample((5, 5)), PIXELS[2]),
    (nn.Upsample(scale_factor=2, mode="bilinear"), PIXELS[2]), (nn.UpsamplingNearest2d(scale_factor=2), PIXELS[2]),
    (nn.UpsamplingBilinear2d((5, 5)), PIXELS[2]), (nn.LSTMCell(8, 4), (2, 8)), (nn.GRUCell(8, 4, bias=False), (2, 8)),
    (nn.RNNCell(8, 4, nonlinearity="relu"), (2, 8)), (nn.LSTM(8, 5, proj_size=3), (2, 4, 8)),
    (nn.GRU(8, 5, 2, bias=False, batch_first=True, bidirectional=True), (2, 4, 8)),
    (nn.RNN(8, 5, nonlinearity="relu"), (2, 4, 8)),
    (nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True, norm_first=True), (2, 4, 8)),
    (nn.TransformerEncoderLayer(8, 2, 16, bias=False), (2, 4, 8)),
    (nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, nn.LayerNorm(8)), (2, 4, 8)),
]  # fmt: skip


def test_every_layer_comes_back(tmp_path):
    for layer, shape in LAYERS:
        loaded = same(nn.Sequential(layer), tmp_path / "n.safetensors", torch.randn(shape))
        assert repr(loaded.get_submodule("0")) == repr(layer)


def test_layers_of_several_inputs_come_back(tmp_path):
    def attention(m, x):
        return m(x, x, x, need_weights=False)[0]

    for part, call in [
        (nn.MultiheadAttention(8, 2), attention),
        (nn.MultiheadAttention(8, 2, bias=False, batch_first=True), attention),
        (nn.MultiheadAttention(8, 2, 0.1, add_bias_kv=True, add_zero_attn=True), attention),
        (nn.MultiheadAttention(8, 2, kdim=8, vdim=8), attention),
        (nn.TransformerDecoderLayer(8, 2, 16), lambda m, x: m(x, x)),
        (nn.Bilinear(8, 8, 3), lambda m, x: m(x, x)),
        (nn.CosineSimilarity(), lambda m, x: m(x, x)),
        (nn.Embedding(5, 3, padding_idx=0), lambda m, x: m(x.long().abs() % 5)),
    ]:
        same(Call(call, part), tmp_path / "n.safetensors", torch.randn(2, 4, 8))


# --- functions, methods, arguments


def test_operations_come_back(tmp_path):
    "In place, by list, by ellipsis, with tensors made in forward, with sizes computed from the input"
    for call in [
        lambda m, x: m(x).tanh_().sub_(0.5),
        lambda m, x: F.leaky_relu_(m(x), 0.1),
        lambda m, x: m(x)[:, [0, 2]],
        lambda m, x: m(x)[..., 0, None],
        lambda m, x: m(x) + torch.arange(6),
        lambda m, x: m(x) * torch.linspace(0, 1, x.shape[2] - 2),
        lambda m, x: m(x).masked_fill(torch.ones(6, 6).triu(1).bool(), -float("inf")).softmax(-1),
        lambda m, x: F.interpolate(m(x), size=x.shape[2:], mode="bilinear"),
        lambda m, x: m(x).to(torch.float64, memory_format=torch.channels_last),
        lambda m, x: torch.stack(m(x).chunk(2, 1)).permute(1, 0, 2, 3, 4),
        lambda m, x: F.scaled_dot_product_attention(*[m(x).flatten(2)] * 3),
        lambda m, x: torch.einsum("nchw,ncij->nhwij", m(x), m(x)),
        lambda m, x: {"a": m(x), "b": [m(x).amax((2, 3)), (x,)]},
        lambda m, x: m(x) + x.new_zeros(x.shape[0], 4, 1, 1, dtype=x.dtype, device=x.device),
        lambda m, x: torch.fft.rfft2(m(x)).abs() + torch.linalg.vector_norm(x),
    ]:
        same(Call(call), tmp_path / "n.safetensors", torch.randn(2, 3, 8, 8))


def test_tensors_outside_the_state_come_back(tmp_path):
    class Tables(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kept", torch.randn(4))
            self.register_buffer("table", torch.randn(4), persistent=False)
            self.plain = torch.randn(4)
            self.scales = nn.ParameterList([nn.Parameter(torch.randn(4))])
            self.frozen = nn.Parameter(torch.tensor([1, 2, 3, 4]), requires_grad=False)
            self.inner = nn.Module()
            self.inner.offset = torch.randn(4)

        def forward(self, x):
            return (x + self.table + self.plain) * self.kept * self.scales[0] + self.frozen + self.inner.offset

    model = Tables()
    loaded = same(nn.Sequential(nn.Linear(4, 4), model), tmp_path / "n.safetensors", torch.randn(3, 4))
    assert loaded.state_dict().keys() == nn.Sequential(nn.Linear(4, 4), model).state_dict().keys()
    assert loaded.get_parameter("1.scales.0").requires_grad and not loaded.get_parameter("1.frozen").requires_grad


@pytest.mark.parametrize("key", ["up-1", "layer 1", "1x1", "conv+bn", "слой", "größe", "Ⅷ", "a'b", "{x}", "#", "日本"])
def test_names_come_back(key, tmp_path):
    model = nn.Sequential(OrderedDict({"a": nn.Linear(4, 6), "d": nn.ModuleDict({key: nn.Linear(6, 2)})}))
    model = Call(lambda m, x: m.d[key](m.a(x).relu()), model)
    if key == "Ⅷ":  # Python would read another name: VIII
        with pytest.raises(CompactionError, match="rename it"):
            save_network(model, tmp_path / "n.safetensors")
        assert not list(tmp_path.iterdir())
    else:
        loaded = same(model, tmp_path / "n.safetensors", torch.randn(3, 4))
        assert loaded.state_dict().keys() == model.state_dict().keys()


def test_ties_come_back(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            self.b.weight = self.a.weight
            self.again = self.c

        def forward(self, x):
            return self.again(self.c(self.b(self.a(x).relu()).relu()).repeat(1, 3)) @ self.c.weight

    model, path = Tied(), tmp_path / "n.safetensors"
    for given in (model, compact(model, torch.randn(3, 6)), masked(Tied(), amount=0.3)):
        loaded = same(given, path, torch.randn(3, 6))
        assert loaded.a.weight is loaded.b.weight and loaded.again is loaded.c
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in model.parameters())
    copied = same(load_network(path), tmp_path / "again.safetensors", torch.randn(3, 6))
    assert copied.a.weight is copied.b.weight


def test_what_would_not_come_back_is_not_written(tmp_path):
    def hooked(model):
        model.register_forward_hook(lambda *_: None)
        return model

    def own_forward(model):
        model[0].forward = lambda x: x
        return model

    stale = nn.Linear(4, 4)
    stale.weight = nn.Parameter(torch.ones(4, 3))
    for model, words in [
        (hooked(nn.Sequential(nn.ReLU())), "hooks"),
        (own_forward(nn.Sequential(nn.ReLU())), "ReLU"),
        (nn.Sequential(stale), "settings ask for"),
        (nn.Sequential(OrderedDict({"class": nn.ReLU()})), "rename it"),
        (nn.Sequential(OrderedDict({"graph": nn.ReLU()})), "rename it"),
        (Call(lambda m, x: torch.rand_like(m(x))), "rand_like"),
        (Call(lambda m, x: m(x).share_memory_()), "share_memory"),
    ]:
        with pytest.raises(CompactionError, match=words):
            save_network(model, tmp_path / "n.safetensors")
        assert not list(tmp_path.iterdir())


def test_what_a_hook_inside_does_comes_back(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model[1].register_forward_hook(lambda module, given, result: 2 * result)
    same(model, tmp_path / "n.safetensors", torch.randn(3, 4))


def test_transformers_come_back(tmp_path):
    models = torchvision.models
    swin = {"patch_size": [4, 4], "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2], "num_classes": 3}
    video = {"patch_size": [2, 4, 4], "window_size": [2, 4, 4], "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2]}
    block = models.swin_transformer.SwinTransformerBlockV2
    for model, size in [
        (models.VisionTransformer(16, 8, 2, 2, 16, 24, num_classes=3), (16, 16)),
        (models.SwinTransformer(window_size=[4, 4], **swin), (24, 20)),
        (models.SwinTransformer(window_size=[4, 4], block=block, **swin), (32, 32)),
        (models.MaxVit((32, 32), 8, 2, [8, 8], [1, 1], 4, 0.0, num_classes=3), (32, 32)),
        (models.video.SwinTransformer3d(num_classes=3, **video), (4, 16, 16)),
    ]:
        same(model, tmp_path / "n.safetensors", torch.randn(2, 3, *size))


# --- checkpoints


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return masked(Small())


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU())
        self.fc = nn.Linear(12, 3)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


ARCH = f"{__name__}:Small"


def reads(file, tmp_path, small, **state):
    "Compact a checkpoint; the result answers as the masked network"
    if state or not isinstance(file, Path):
        torch.save(file, tmp_path / "c.pt")
        file = tmp_path / "c.pt"
    report = compact_file(file, ARCH, tmp_path / "o.safetensors", size=12)
    x = torch.randn(4, 3, 12, 12)
    torch.testing.assert_close(answers(load_network(tmp_path / "o.safetensors"), x), answers(small, x))
    assert report.parameters[1] < report.parameters[0]
    return report


class Mode(enum.Enum):
    fast = 1


class Config(dict):
    def __init__(self, **kwargs):
        super().__init__(kwargs)
        self.__dict__ = self


def test_what_training_scripts_leave_in_a_checkpoint(small, tmp_path):
    "Of classes that are not loaded, whatever they are"
    state = small.state_dict()
    when = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    for extra in [
        {"args": argparse.Namespace(lr=0.1, out=Path("x"))},
        {"best": np.float64(0.9), "array": np.arange(3), "kind": np.dtype("int8"), "state": np.random.RandomState(0)},
        {"when": when, "took": datetime.timedelta(1), "mode": Mode.fast, "keys": {Mode.fast: {1, 2}}},
        {"config": Config(lr=0.1)},
        {"config": Config(lr=np.float32(1), more=Config()), "history": defaultdict(list, loss=[1])},
        {"optimizer": torch.optim.SGD(small.parameters(), 0.1, 0.9).state_dict(), "scaler": {}, "epoch": 3},
        {"function": torch.nn.functional.relu, "type": int, "range": range(3)},
    ]:
        reads({"model": state, **extra}, tmp_path, small)


def test_prefixes_and_entries(small, tmp_path):
    state = small.state_dict()

    def put(prefix):
        return {prefix + name: value for name, value in state.items()}

    other = {name: torch.zeros_like(value) for name, value in state.items()}
    averaged = {f"module.{name}": value for name, value in other.items()} | {"n_averaged": torch.tensor(1)}
    for layout in [
        put("module."), put("_orig_mod."), put("module._orig_mod.model."), {"state_dict": put("net.")},
        {"state_dict": put("backbone.") | {"head.weight": torch.ones(2)}},
        {"state_dict": put("model.net.") | {"criterion.weight": torch.ones(2)}, "hyper_parameters": {"a": 1}},
        {"arch": "x", "state_dict": state, "state_dict_ema": other},
        {"model": put("module."), "model_ema": averaged},
        {"state_dict_ema": state}, {"epoch": 1, "model": {"network": state}}, [state, {"lr": 1}],
        {"model_state": state, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}},
    ]:  # fmt: skip
        reads(layout, tmp_path, small)
    with pytest.raises(CompactionError, match="several networks that fit"):
        reads({f"student.{k}": v for k, v in state.items()} | put("teacher."), tmp_path, small)


def test_masks_of_every_layout(small, tmp_path):
    state = small.state_dict()

    def renamed(old, new, change=lambda value: value):
        return {name.replace(old, new): change(v) if old in name else v for name, v in state.items()}

    beside, sparse = renamed("weight_orig", "weight"), "parametrizations.weight"
    for layout in [
        state, beside, {k: v.bool() if "mask" in k else v for k, v in beside.items()},
        {k: v.to(torch.int8) if "mask" in k else v for k, v in state.items()},
        {k.replace("weight_mask", "mask"): v for k, v in beside.items()},
        {k.replace("weight_orig", f"{sparse}.original").replace("weight_mask", f"{sparse}.0.mask"): v
         for k, v in state.items()},
    ]:  # fmt: skip
        reads(layout, tmp_path, small)
    kernel = state["features.3.weight_mask"]
    reads({**beside, "features.3.weight_mask": kernel[:, :, :1, :1]}, tmp_path, small)
    for change, words in [
        ({"features.3.weight_mask": kernel[:, :3]}, "mask of features.3.weight has shape"),
        ({"features.3.weight_mask": kernel.flatten()}, "mask of features.3.weight has shape"),
        ({"masks.features": kernel}, "masks.features"),
        ({"features.9.weight_mask": kernel}, "features.9.weight_mask"),
        ({"features.3.mask": kernel}, "two tensors"),
    ]:
        with pytest.raises(CompactionError, match=words):
            reads({**beside, **change}, tmp_path, small)
    with pytest.raises(CompactionError, match=r"without features\.3\.weight_mask"):
        reads({k: v for k, v in state.items() if k != "features.3.weight_mask"}, tmp_path, small)


def test_every_tensor_keeps_its_dtype(small, tmp_path):
    state = {k: v.half() if "features.3" in k or "fc" in k else v for k, v in small.state_dict().items()}
    torch.save(state, tmp_path / "c.pt")
    compact_file(tmp_path / "c.pt", ARCH, tmp_path / "o.safetensors", size=12)
    found = load_network(tmp_path / "o.safetensors").state_dict()
    assert {found[f"{name}.weight"].dtype for name in ("features.3", "fc")} == {torch.float16}
    assert found["features.0.weight"].dtype == found["features.1.running_var"].dtype == torch.float32
    for dtype in (torch.float64, torch.bfloat16):
        torch.save({k: v.to(dtype) for k, v in small.state_dict().items()}, tmp_path / "c.pt")
        compact_file(tmp_path / "c.pt", ARCH, tmp_path / "o.safetensors", size=12)
        assert load_network(tmp_path / "o.safetensors").fc.weight.dtype == dtype


class Evil:
    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def test_files_that_are_no_checkpoints(small, tmp_path):
    import os

    flag = tmp_path / "executed"
    torch.jit.save(torch.jit.trace(small, torch.randn(1, 3, 12, 12)), tmp_path / "script.pt")
    torch.export.save(torch.export.export(nn.ReLU(), (torch.ones(2),)), tmp_path / "export.pt2")
    torch.save(small, tmp_path / "whole.pt")
    torch.save(small.fc, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"model": small.state_dict(), "x": Evil(os.system, f"touch {flag}")}, tmp_path / "evil.pt")
    torch.save(Evil(exec, f"open({str(flag)!r}, 'w')"), tmp_path / "worse.pt")
    (tmp_path / "sharded").mkdir()
    (tmp_path / "sharded/.metadata").touch()
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    (tmp_path / "model.onnx").touch()
    (tmp_path / "text.pt").write_text("weights")
    (tmp_path / "empty.pt").touch()
    quantised = torch.ao.quantization.quantize_dynamic(Small(), {nn.Linear})
    torch.save(quantised.state_dict(), tmp_path / "int8.pt")
    for name, words in {
        "script.pt": "TorchScript", "export.pt2": "torch.export", "whole.pt": "a whole network", "old.pt": "Linear",
        "evil.pt": "system, which is not loaded", "worse.pt": "a whole network .builtins.exec", "sharded": "dcp_to",
        "model.safetensors.index.json": "sharded", "model.onnx": "ONNX", "text.pt": "damaged", "empty.pt": "damaged",
        "int8.pt": "fc", "missing.pt": "is missing", ".": "is a folder",
    }.items():  # fmt: skip
        with pytest.raises(CompactionError, match=words) as caught:
            compact_file(tmp_path / name, ARCH, tmp_path / "o.safetensors", size=12)
        assert "\n" not in str(caught.value)
    assert not flag.exists() and not (tmp_path / "o.safetensors").exists()


def test_outputs_that_must_not_be_written(small, tmp_path):
    save_file(small.state_dict(), tmp_path / "c.safetensors")
    before = (tmp_path / "c.safetensors").read_bytes()
    (tmp_path / "folder.safetensors").mkdir()
    for output, words in {
        "c.safetensors": "is the file that is read",
        "o.pt": "should end in",
        "folder.safetensors": "is a folder",
    }.items():
        with pytest.raises(CompactionError, match=words):
            compact_file(tmp_path / "c.safetensors", ARCH, tmp_path / output, size=12)
    with pytest.raises(CompactionError, match="can't see inputs of .*with size=N, or its own inputs with inputs=FILE"):
        compact_file(tmp_path / "c.safetensors", ARCH, tmp_path / "o.safetensors", size=2)
    for size in (0, -5, 10**6):
        with pytest.raises(CompactionError, match="size"):
            compact_file(tmp_path / "c.safetensors", ARCH, tmp_path / "o.safetensors", size=size)
    assert (tmp_path / "c.safetensors").read_bytes() == before
    compact_file(tmp_path / "c.safetensors", ARCH, tmp_path / "new/folder/o.safetensors", size=12)


def test_networks_by_name(tmp_path):
    names = {
        "mnasnet0_5": 32, "squeezenet1_0": 48, "quantized_resnet18": 32,
    }  # fmt: skip
    for arch, size in names.items():
        model = masked(torchvision.models.get_model(arch, weights=None, num_classes=3))
        state = model.state_dict()
        if arch == "mnasnet0_5":
            save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "c.safetensors")  # without versions
        torch.save(state, tmp_path / "c.pt")
        for file in [tmp_path / "c.pt"] + [tmp_path / "c.safetensors"] * (arch == "mnasnet0_5"):
            report = compact_file(file, arch, tmp_path / "o.safetensors", size=size)
            assert report.parameters[1] < 0.8 * report.parameters[0], arch


def test_networks_that_are_not_there(small, tmp_path):
    torch.save(small.state_dict(), tmp_path / "c.pt")
    for arch, words in {
        "resnet51": "did you mean", "zzz": "list_models", "fasterrcnn_resnet50_fpn": "backbone",
        "nowhere:Net": "nowhere", f"{__name__}:Nothing": "Nothing", "math:pi": "no arguments",
        "torch:zeros": "no arguments", "torch.nn:Conv2d": "arguments",
        "builtins:dict": "no torch.nn.Module", "resnet18": "no weights of resnet18", ":": "gives no network",
    }.items():  # fmt: skip
        with pytest.raises(CompactionError, match=words) as caught:
            compact_file(tmp_path / "c.pt", arch, tmp_path / "o.safetensors")
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_timm_by_name(tmp_path, monkeypatch):
    import timm

    model = masked(timm.create_model("test_resnet", num_classes=3, pretrained=False))
    torch.save({"arch": "test_resnet", "state_dict": model.state_dict()}, tmp_path / "c.pt")
    report = compact_file(tmp_path / "c.pt", "timm:test_resnet", tmp_path / "o.safetensors", size=64)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(answers(load_network(tmp_path / "o.safetensors"), x), answers(model, x))
    assert report.parameters[1] < report.parameters[0]
    with pytest.raises(CompactionError, match="did you mean"):
        compact_file(tmp_path / "c.pt", "timm:resnet_18", tmp_path / "n.safetensors")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(CompactionError, match="pip install timm"):
        compact_file(tmp_path / "c.pt", "timm:resnet18", tmp_path / "n.safetensors")


def test_inputs_for_the_proof(small, tmp_path):
    from PIL import Image

    torch.save(small.state_dict(), tmp_path / "c.pt")
    torch.save(torch.randint(0, 256, (5, 3, 14, 14), dtype=torch.uint8), tmp_path / "bytes.pt")
    torch.save([torch.randn(3, 3, 14, 14)], tmp_path / "list.pt")
    save_file({"images": torch.randn(3, 3, 14, 14)}, tmp_path / "batch.safetensors")
    (tmp_path / "images/deep").mkdir(parents=True)
    for i in range(3):
        Image.fromarray(np.full((9, 20), 80 * i, np.uint8)).save(tmp_path / f"images/deep/{i}.png")
    for name, count in {"bytes.pt": 5, "list.pt": 3, "batch.safetensors": 3, "images": 3}.items():
        report = compact_file(tmp_path / "c.pt", ARCH, tmp_path / "o.safetensors", inputs=tmp_path / name, size=14)
        assert report.inputs_checked > count and report.example[0].shape[1:] == (3, 14, 14)
    (tmp_path / "images/broken.png").write_bytes(b"no image")
    (tmp_path / "nothing").mkdir()
    torch.save({"a": 1}, tmp_path / "no.pt")
    for name, words in {
        "images": "broken.png",
        "nothing": "no images",
        "no.pt": "no tensors",
        "gone": "is missing",
    }.items():
        with pytest.raises(CompactionError, match=words):
            compact_file(tmp_path / "c.pt", ARCH, tmp_path / "n.safetensors", inputs=tmp_path / name, size=14)
    assert not (tmp_path / "n.safetensors").exists()


def test_any_network_becomes_onnx(tmp_path):
    "Several planes, several outputs, a whole precision of its own; and no file where it fails"

    class Heads(Small):
        def forward(self, x):
            y = self.features(x)
            return {"map": y, "logits": (self.fc(y.mean((2, 3))), y.sum())}

    network = compact(masked(Heads()).double(), torch.randn(2, 3, 12, 12).double())
    assert export_network(network, tmp_path / "n.onnx", torch.randn(2, 3, 12, 12).double()) < 1e-4
    session = open_onnx(tmp_path / "n.onnx")
    x = torch.randn(5, 3, 12, 12)
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected = answers(network.float(), x)
    assert len(found) == len(expected) == 3
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-3, atol=1e-4)

    class Complex(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvals(x @ x.mT).real

    with pytest.raises(CompactionError, match="can't be exported"):
        export_network(Complex(), tmp_path / "c.onnx", torch.randn(2, 3, 3))
    assert [path.name for path in tmp_path.iterdir()] == ["n.onnx"]


# --- whole families


def round_trip(arch, size, tmp_path):
    "Compact, save, load: the same answers; and the state fits the file's network"
    torch.manual_seed(0)
    settings = (
        {"weights_backbone": None}
        if arch in torchvision.models.list_models(module=torchvision.models.segmentation)
        else {}
    )
    model = masked(torchvision.models.get_model(arch, weights=None, num_classes=3, **settings))
    torch.save(model.state_dict(), tmp_path / "c.pt")
    report = compact_file(tmp_path / "c.pt", arch, tmp_path / "o.safetensors", size=size)
    x = torch.randn(2, *report.example[0].shape[1:])
    torch.testing.assert_close(
        answers(load_network(tmp_path / "o.safetensors"), x), answers(model, x), rtol=1e-3, atol=1e-4
    )


@pytest.mark.hard
@pytest.mark.parametrize("module", ["classification", "segmentation", "quantization", "video"])
def test_all_of_torchvision_in_files(module, tmp_path):
    models = torchvision.models
    names = models.list_models(module=models if module == "classification" else getattr(models, module))
    for arch in names:
        kwargs = {"weights_backbone": None} if module == "segmentation" else {}
        network = _without_values(models.get_model_builder(arch), weights=None, **kwargs)
        if sum(p.numel() for p in network.parameters()) < 60e6:
            try:
                round_trip(arch, None if "vit" in arch else 96, tmp_path)
            except CompactionError as error:
                assert "is not known to compaction" in str(error) or "cannot be traced" in str(error), arch


# --- the command line


def test_compact_as_engineers_use_it(tmp_path, monkeypatch):
    from test_cli import refused, run

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\ndef tiny():\n    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))\n"
    )
    torch.manual_seed(0)
    model = masked(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    torch.save({"model": {f"module.{k}": v for k, v in model.state_dict().items()}}, "c.pt")
    arguments = ("compact", "c.pt", "--arch", "mynets:tiny", "-o", "out/small.safetensors")
    done = run(*arguments, "--onnx", "out/small.onnx", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["parameters"][1] < report["parameters"][0] and report["difference"] < 1e-9
    assert report["onnx_difference"] < 1e-5 and report["layers"][0]["layer"] == "0"
    x = torch.randn(3, 4)
    torch.testing.assert_close(answers(load_network("out/small.safetensors"), x), answers(model, x))
    assert "written to" in run(*arguments).stdout
    refused(run(*arguments, "--size", "-5"), "--size")
    refused(run(*arguments, "--onnx", "small.pt"), "should end in .onnx")
    refused(run("compact", "c.pt", "--arch", "mynets:huge", "-o", "o.safetensors"), "mynets:huge")
    refused(run("compact", "out", "--arch", "mynets:tiny", "-o", "o.safetensors"), "is a folder")
    refused(run("compact", "c.pt"), "--output")
    refused(run("nonsense"), "nonsense", "--help")
    refused(run("lab", "--seed", "-1"), "--seed")
    refused(run("lab", "--max-macs", "nan"), "--max-macs")
    refused(run("lab", "--min-speedup", "inf"), "--min-speedup")


# --- what could be lost on the way into a file


class BySize(nn.Module):
    "Branches on the size of its images"

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, x):
        y = F.dropout(self.a(x), 0.5, self.training)
        if x.shape[2] % 4:
            y = F.pad(y, (0, 0, 0, 4 - x.shape[2] % 4))
        return self.b(y).mean((2, 3))


def test_networks_that_branch_on_sizes_are_saved_as_they_were_compacted(tmp_path):
    torch.manual_seed(0)
    model, x = masked(BySize()).eval(), torch.randn(2, 3, 10, 10)
    small = compact(model, x)
    save_network(small, tmp_path / "n.safetensors")
    torch.testing.assert_close(answers(load_network(tmp_path / "n.safetensors"), x), answers(model, x))
    with pytest.raises(CompactionError, match="give example_input, if it branches on sizes"):
        save_network(nn.Sequential(model), tmp_path / "m.safetensors")
    save_network(model, tmp_path / "m.safetensors", example_input=x, note="masked")
    torch.testing.assert_close(answers(load_network(tmp_path / "m.safetensors"), x), answers(model, x))


def test_files_have_the_suffix_of_their_format(tmp_path):
    with pytest.raises(CompactionError, match=r"should end in \.safetensors"):
        save_network(nn.Linear(2, 2), tmp_path / "x.pt")


def test_functions_in_a_file_draw_no_random_numbers(tmp_path):
    class Draws(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)

    with pytest.raises(CompactionError, match="draws random numbers"):
        save_network(Draws(), tmp_path / "n.safetensors")


def test_what_cannot_be_saved_is_said_before_the_work_and_leaves_no_file(tmp_path, monkeypatch):
    (tmp_path / "moody.py").write_text(
        "from torch import nn\n"
        "class Moody(nn.Module):\n    def forward(self, x): return x if x.mean() > 0 else -x\n"
        "def net(): return nn.Sequential(nn.Linear(4, 6), Moody(), nn.Linear(6, 2))\n"
        "def plain(): return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(nn.Sequential(nn.Linear(4, 6), nn.Identity(), nn.Linear(6, 2)).state_dict(), "c.pt")
    steps = []
    with pytest.raises(CompactionError, match=r"module '1' \(Moody\) cannot be traced.*a file holds no code"):
        compact_file("c.pt", "moody:net", "small.safetensors", onnx="small.onnx", tell=steps.append)
    assert steps == ["reading c.pt"]  # not an hour later
    compact_file("c.pt", "moody:net", "small.safetensors", strict=False)  # the code is elsewhere
    torch.set_warn_always(True)  # PyTorch warns of arrays that may not be written once in a process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            small = load_network("small.safetensors", importlib.import_module("moody").net())
    finally:
        torch.set_warn_always(False)
    state = torch.load("c.pt", weights_only=True)
    assert all(torch.equal(tensor, state[name]) for name, tensor in small.state_dict().items())
    Path("small.safetensors").unlink()

    def full(*_, **__):
        raise CompactionError("no room")

    monkeypatch.setattr(checkpoints, "export_network", lambda model, path, example: Path(path).write_bytes(b"onnx"))
    monkeypatch.setattr(checkpoints, "save_network", full)
    with pytest.raises(CompactionError, match="no room"):
        compact_file("c.pt", "moody:plain", "small.safetensors", onnx="small.onnx")
    assert not list(tmp_path.glob("*.onnx")) and not list(tmp_path.glob("*.safetensors"))


def test_a_network_with_nothing_to_cut_is_written_and_a_note_says_why(small, tmp_path):
    plain = Small()
    prune.l1_unstructured(plain.features[3], "weight", 0.5)
    for model, told in ((Small(), "none of its weights is zero"), (plain, "% of its weights are zero, but fill no")):
        torch.save(model.state_dict(), tmp_path / "c.pt")
        with pytest.warns(UserWarning, match=f"nothing was removed from .*c.pt: .*{told}"):
            report = compact_file(tmp_path / "c.pt", ARCH, tmp_path / "o.safetensors", size=12)
        assert "nothing to cut" in str(report) and (tmp_path / "o.safetensors").exists()
    torch.save(small.state_dict(), tmp_path / "c.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compact_file(tmp_path / "c.pt", ARCH, tmp_path / "o.safetensors", size=12)


def test_messages_name_the_argument_to_change(tmp_path):
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "c.pt")
    for arch in ("alexnet", "squeezenet1_0"):
        with pytest.raises(CompactionError, match=r"name the network that it belongs to with arch="):
            compact_file(tmp_path / "c.pt", arch, tmp_path / "n.safetensors")
    with pytest.raises(CompactionError, match="nofolder is missing; give a folder of images or a file of tensors"):
        compact_file(tmp_path / "c.pt", "squeezenet1_1", tmp_path / "n.safetensors", inputs=tmp_path / "nofolder")
