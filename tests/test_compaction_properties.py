"""Random networks, random masks: the compacted network is the same function.

`make test` runs a fixed, small set; `PNEUMOPRUNE_EXAMPLES=5000 pytest tests/test_compaction_properties.py` explores.
"""

import copy
import operator
import os
import tempfile
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from pneumoprune.compaction import ProofWarning, compact, restore
from pneumoprune.networks import load_network, save_network

EXAMPLES = int(os.environ.get("PNEUMOPRUNE_EXAMPLES", 0))
profile = settings(
    max_examples=EXAMPLES or 120,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate] if EXAMPLES else [Phase.generate, Phase.shrink],
)
# nothing may depend on the order in which threads add up
torch.set_num_threads(1)

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid, nn.Tanh, nn.Softplus,
    nn.Identity, nn.PReLU,
)  # fmt: skip


class Net(nn.Module):
    "A network drawn step by step: every step reads earlier tensors and appends one"

    def __init__(self):
        super().__init__()
        self.parts, self.steps = nn.ModuleDict(), []

    def step(self, kind, reads, module=None):
        name = f"m{len(self.steps)}"
        if module is not None:
            self.parts[name] = module
        self.steps.append((kind, reads, name))

    def forward(self, x):
        tensors = [x]
        for kind, reads, name in self.steps:
            args = [tensors[i] for i in reads]
            tensors.append(self.parts[name](args[0]) if name in self.parts else FUNCTIONS[kind](*args))
        return tensors[-1]


FUNCTIONS = {
    "add": lambda a, b: a + b,
    "iadd": lambda a, b: operator.iadd(1 * a, b),
    "sub": lambda a, b: a - b,
    "alpha": lambda a, b: torch.add(a, b, alpha=0.5),
    "mul": lambda a, b: a * b,
    "maximum": torch.maximum,
    "cat": lambda *a: torch.cat(a, 1),
    "double": lambda a: a + a,
    "scale": lambda a: 0.5 * a - 0.25,
    "one minus": lambda a: 1 - a,
    "pad": lambda a: F.pad(a, (1, 1)),
    "relu": F.relu,
    "method": lambda a: a.relu(),
    "flatten": lambda a: a.flatten(1),
    "view": lambda a: a.view(a.size(0), -1),
    "reshape": lambda a: torch.reshape(a, (a.shape[0], -1)),
    "mean": lambda a: a.mean([2, 3]),
    "avg": lambda a: F.adaptive_avg_pool2d(a, 1).flatten(1),
    "gate": lambda a: a * torch.sigmoid(a.mean([2, 3], keepdim=True)),
}


def _batch_norm(draw, width, dims=2):
    norm = (nn.BatchNorm2d if dims == 2 else nn.BatchNorm1d)(width, affine=draw(st.integers(0, 4)) > 0)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        if draw(st.integers(0, 3)) == 0:  # network slimming: scales of 0
            norm.weight.data[torch.rand(width) < 0.4] = 0
    return norm


def _prune(draw, layer):
    "A random mask, or none; sometimes of everything"
    kind = draw(st.sampled_from(["none", "dim0", "dim1", "dim1", "both", "random", "sparse", "zeros", "all"]))
    amount = draw(st.sampled_from([0.2, 0.5, 0.9]))
    if kind in ("dim0", "both"):
        prune.ln_structured(layer, "weight", amount=amount, n=2, dim=0)
        if layer.bias is not None and draw(st.booleans()):
            prune.l1_unstructured(layer, "bias", amount=amount)
    if kind in ("dim1", "both") and layer.weight.shape[1] > 1:
        prune.ln_structured(layer, "weight", amount=amount, n=2, dim=1)
    if kind == "random":
        prune.random_unstructured(layer, "weight", amount=amount)
    if kind == "sparse":
        prune.random_unstructured(layer, "weight", amount=0.97)
    if kind == "zeros":  # made permanent
        prune.ln_structured(layer, "weight", amount=amount, n=2, dim=draw(st.integers(0, 1)))
        prune.remove(layer, "weight")
    if kind == "all" and draw(st.booleans()):
        prune.custom_from_mask(layer, "weight", torch.zeros_like(layer.weight))
    return layer


@st.composite
def networks(draw):
    "A network on (N, C, H, W) in float64 and an input for it"
    torch.manual_seed(draw(st.integers(0, 2**31 - 1)))
    net = Net()
    shapes = [(draw(st.integers(1, 4)), draw(st.integers(5, 9)), draw(st.integers(5, 9)))]
    example = torch.randn(draw(st.integers(1, 3)), *shapes[0], dtype=torch.float64)

    def conv(read):
        channels, height, width = shapes[read]
        kernel = draw(st.sampled_from([1, 3, 3, (3, 1), 2]))
        reach = max(kernel) if isinstance(kernel, tuple) else kernel
        if min(height, width) < reach:
            kernel = reach = 1
        padding = draw(st.sampled_from([0, reach // 2, reach // 2]))
        stride = draw(st.sampled_from([1, 1, 2]))
        groups = draw(st.sampled_from([g for g in (1, 1, 2, 3, channels) if channels % g == 0]))
        outputs = groups * draw(st.integers(1, max(8 // groups, 1)))
        mode = draw(st.sampled_from(["zeros", "zeros", "zeros", "replicate"]))
        if stride == 1 and padding and draw(st.integers(0, 3)) == 0:
            padding = "same"
        dilation = 2 if kernel == 3 and min(height, width) >= 5 and draw(st.integers(0, 3)) == 0 else 1
        bias = draw(st.booleans())
        return nn.Conv2d(
            channels, outputs, kernel, stride, padding, dilation, groups=groups, bias=bias, padding_mode=mode
        )

    def append(kind, reads, module=None):
        net.step(kind, reads, module)
        with torch.no_grad():
            shapes.append(tuple(net.eval().double()(example).shape[1:]))

    for _ in range(draw(st.integers(1, 8))):
        spatial = [i for i, shape in enumerate(shapes) if len(shape) == 3]
        read = draw(st.sampled_from(spatial[-3:]))
        kind = draw(
            st.sampled_from(["conv", "conv", "conv", "block", "norm", "activation", "pool", "join", "cat", "unary"])
        )
        if kind in ("conv", "block"):
            append("conv", [read], _prune(draw, conv(read)))
            if kind == "block":
                append("norm", [len(shapes) - 1], _batch_norm(draw, shapes[-1][0]))
                append("activation", [len(shapes) - 1], nn.ReLU(inplace=draw(st.booleans())))
        elif kind == "norm":
            append(kind, [read], _batch_norm(draw, shapes[read][0]))
        elif kind == "activation":
            made = draw(st.sampled_from(ACTIVATIONS))
            append(kind, [read], nn.PReLU(shapes[read][0]) if made is nn.PReLU else made())
        elif kind == "pool" and min(shapes[read][1:]) > 2:
            pools = [
                nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(2), nn.AvgPool2d(3, 1, 1),
                nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.AvgPool2d(2, divisor_override=3),
                nn.AdaptiveAvgPool2d(3), nn.AdaptiveMaxPool2d((2, 3)), nn.Dropout(), nn.Dropout2d(),
                nn.ZeroPad2d(1), nn.ReplicationPad2d((1, 0, 0, 1)), nn.Upsample(scale_factor=1.5, mode="bilinear"),
            ]  # fmt: skip
            append(kind, [read], draw(st.sampled_from(pools)))
        elif kind == "join":  # a branch that comes back to where it started, or two tensors that fit
            fits = [i for i in spatial if shapes[i] == shapes[read]]
            if draw(st.booleans()):
                channels = shapes[read][0]
                groups = draw(st.sampled_from([1, 1, channels]))
                branch = nn.Conv2d(channels, channels, 3, padding=1, groups=groups, bias=draw(st.booleans()))
                append("conv", [read], _prune(draw, branch))
                if draw(st.booleans()):
                    append("norm", [len(shapes) - 1], _batch_norm(draw, channels))
                fits = [len(shapes) - 1]
            kind = draw(st.sampled_from(["add", "add", "add", "sub", "alpha", "mul", "maximum", "iadd"]))
            append(kind, [read, draw(st.sampled_from(fits))])
        elif kind == "cat":
            fits = [i for i in spatial if shapes[i][1:] == shapes[read][1:]]
            append("cat", [read, *draw(st.lists(st.sampled_from(fits), min_size=1, max_size=2))])
        elif kind == "unary":
            append(draw(st.sampled_from(["double", "scale", "relu", "method", "gate", "pad", "one minus"])), [read])

    append(draw(st.sampled_from(["flatten", "view", "reshape", "mean", "avg"])), [len(shapes) - 1])
    for _ in range(draw(st.integers(0, 2))):
        width = shapes[-1][0]
        append("linear", [len(shapes) - 1], _prune(draw, nn.Linear(width, draw(st.integers(1, 12)))))
        if draw(st.booleans()):
            append("norm", [len(shapes) - 1], _batch_norm(draw, shapes[-1][0], 1))
        append("activation", [len(shapes) - 1], draw(st.sampled_from([nn.ReLU, nn.Tanh, nn.Sigmoid]))())
    last = nn.Linear(shapes[-1][0], draw(st.integers(1, 4)), bias=draw(st.booleans()))
    append("linear", [len(shapes) - 1], _prune(draw, last))
    return net.double().train(draw(st.booleans())), example


def _same(a, b, x):
    modes = a.training, b.training
    with torch.no_grad():
        expected, found = a.eval()(x), b.eval()(x)
    a.train(modes[0]), b.train(modes[1])
    return (expected - found).abs().max() / max(1, expected.abs().max())


@given(networks())
@profile
def test_compacted_is_the_same_function(drawn):
    net, x = drawn
    note(str(net.steps))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProofWarning)
        small = compact(net, x, atol=1e-10)
    other = torch.randn(5, *x.shape[1:], dtype=x.dtype) * 3
    assert _same(net, small, other) <= 1e-10
    assert small.report.parameters[1] <= small.report.parameters[0] + sum(
        len(added.get("bias", ())) for added in small.report.added.values()
    )
    # the given network is untouched
    after = net.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert small.training == net.training and next(small.parameters()).dtype == torch.float64


def _answers_everything_alike(net, x):
    with torch.no_grad():
        answers = copy.deepcopy(net).eval()(3 * torch.randn(64, *x.shape[1:], dtype=x.dtype))
    return bool((answers == answers[:1]).all())


@given(networks())
@profile
def test_compacting_twice_saving_and_restoring(drawn):
    net, x = drawn
    note(str(net.steps))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProofWarning)
        small = compact(net, x, atol=1e-10)
        again = compact(small, x, atol=1e-10)
    saved = small.report.parameters[1] - again.report.parameters[1]
    grouped = any(getattr(part, "groups", 1) > 1 for part in net.modules())
    if grouped or _answers_everything_alike(small, x):
        # the channels that fill up groups decide what else stays: another choice may be better; and of a network
        # that has become a constant one pass leaves a stub of every layer, which a second may shorten
        assert saved >= 0
    else:
        assert saved == 0, "one pass must find everything"
    with tempfile.TemporaryDirectory() as folder:
        save_network(small, f"{folder}/net.safetensors")
        assert _same(load_network(f"{folder}/net.safetensors"), small, x) <= 1e-12
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    restore(small, net)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=1e-9, atol=1e-9)


if __name__ == "__main__":
    pytest.main([__file__])
