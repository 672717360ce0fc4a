"""Compaction: what forward methods do besides calling layers, each kind exact and smaller."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from pneumoprune.alexnet import copy_network
from pneumoprune.channels import CompactionError
from pneumoprune.compaction import compact, restore

pytestmark = pytest.mark.filterwarnings("ignore::pneumoprune.compaction.ProofWarning")
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def masked(model, *where, dim=1):
    "Half of the inputs (dim=1) or outputs (dim=0) of some layers masked; statistics as after training"
    torch.manual_seed(0)
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.bias)
    for name in where:
        prune.ln_structured(model.get_submodule(name), "weight", 0.5, n=2, dim=dim)
    return model.eval()


def check(model, *inputs, ratio=0.9, **settings):
    "Compact; the result is the same function, and smaller"
    small = compact(model, inputs if len(inputs) > 1 else inputs[0], **settings)
    report = small.report
    assert report.parameters[1] < ratio * report.parameters[0], f"{report}"
    with torch.no_grad():
        torch.testing.assert_close(small(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)
    return small


# --- layers that are subclasses, or call functions with their own parameters


class MyLinear(nn.Linear): ...


class MyConv(nn.Conv2d): ...


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class NormAct(nn.BatchNorm2d):
    def __init__(self, width):
        super().__init__(width)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps))


class Own(nn.Module):
    "No layer of torch.nn, but the parameters of one"

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(outputs, inputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        return F.linear(x, self.weight, bias=self.bias)


def sequence(conv, norm, linear):
    last = nn.ReLU(), nn.Flatten(), linear(8 * 16, 12), nn.ReLU(), linear(12, 2)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), norm(8), nn.ReLU(), conv(8, 8, 3, 2, 1), norm(8), *last)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize(
    "conv, norm, linear",
    [(MyConv, nn.SyncBatchNorm, MyLinear), (Doubled, NormAct, Own)],
    ids=["without a forward", "with a forward"],
)
def test_subclasses_and_functions_with_own_parameters(conv, norm, linear, dim):
    model = masked(sequence(conv, norm, linear), "0", "3", "7", dim=dim)
    small = check(model, IMAGES, ratio=0.85)
    assert type(small[3]) is conv and isinstance(small[7], nn.Linear if linear is MyLinear else Own)
    again = copy_network(model)
    again[9].bias.data += 1
    restore(small, again)
    with torch.no_grad():
        torch.testing.assert_close(again(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)


def test_a_function_without_bias_keeps_one_constant_for_all():
    torch.manual_seed(0)

    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 8))

        def forward(self, x):
            return F.linear(x, self.weight)

    model = nn.Sequential(nn.Linear(5, 8), nn.Sigmoid(), Weighted())
    model[0].weight.data[:4] = 0  # four constants
    small = check(model, torch.randn(3, 5))
    assert len(small[0].weight) == 5 and small[2].weight.shape == (4, 5)


def test_groups_and_shared_parameters_of_functions():
    model = masked(nn.Sequential(nn.Conv2d(3, 8, 1), Doubled(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1)), "2")
    assert check(model, IMAGES)[1].groups == 4
    twice = Own(8, 8)
    model = masked(nn.Sequential(nn.Linear(8, 8), twice, twice, nn.Linear(8, 8), nn.Linear(8, 2)), "4")
    small = check(model, torch.randn(2, 8))
    assert small[1].weight.shape == (8, 8) and len(small[3].weight) == 4


def test_hooks_are_part_of_the_network():
    model = masked(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)), "2")
    model[0].register_forward_hook(lambda module, args, out: out * 2 + 1)
    model[2].register_forward_pre_hook(lambda module, args: args[0] * 3)
    check(model, IMAGES)


# --- arguments, sizes and casts


class Net(nn.Module):
    "Features and a head; `forward` is given"

    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.o = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 2)
        self.code = forward
        prune.ln_structured(self.b, "weight", 0.5, n=2, dim=1)
        prune.ln_structured(self.o, "weight", 0.5, n=2, dim=1)
        self.eval()

    def features(self, x):
        return F.relu(self.b(F.relu(self.a(x))))

    def forward(self, x, mask=None, flag=False, times=2):
        return self.code(self, x, mask, flag, times)


def branching(net, x, mask, flag, times):
    if mask is not None:
        x = x * mask
    for _ in range(times):
        x = x + 0.0
    y = net.o(net.features(x).mean((2, 3)))
    return (y, x) if flag else y


def sizes(net, x, mask, flag, times):
    batch, channels, height, width = x.shape
    if height % 3 != 0:
        x = F.pad(x, (0, 0, 0, 3 - height % 3))
    y = net.features(F.interpolate(x, size=[int(height * 1.5), width]))
    y = F.interpolate(y, size=x.shape[2:])
    return net.o(y.flatten(start_dim=2).mean(dim=-1).reshape(shape=(batch, 8)))


def counted(net, x, mask, flag, times):
    y = net.features(x)
    if y.shape[1] != 8:  # these channels stay
        raise ValueError
    return net.o(y.mean((2, 3)))


def cast(net, x, mask, flag, times):
    with torch.autocast("cpu", enabled=False):
        y = net.features(x.float().to(torch.float32) + torch.zeros(1)).mean((2, 3))
        return net.o(y.type(torch.float32).type_as(x))


@pytest.mark.parametrize("forward", [branching, sizes, counted, cast])
def test_code_that_branches_on_sizes_and_defaults_and_casts(forward):
    small = check(Net(forward), IMAGES)
    if forward is counted:
        assert len(small.b.weight) == 8


def test_inputs_in_a_list_a_dict_an_array():
    net, mask = Net(branching), torch.rand(2, 1, 8, 8)
    for example in ([IMAGES, mask], {"mask": mask, "x": IMAGES}, IMAGES.numpy()):
        assert compact(net, example).report.parameters[1] < net.a.weight.numel() + 200
    with pytest.raises(CompactionError, match="first arguments of forward are x, mask"):
        compact(net, {"x": IMAGES, "times": 3})


def test_wrapped_networks_are_named():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for wrapped in (nn.DataParallel(net), torch.optim.swa_utils.AveragedModel(net), torch.jit.script(net)):
        with pytest.raises(CompactionError, match=r"\.module|ScriptModule"):
            compact(wrapped, torch.randn(2, 3))
    with pytest.raises(CompactionError, match=r"module '0' is wrapped in DataParallel"):
        compact(nn.Sequential(nn.DataParallel(net)), torch.randn(2, 3))
