"""Compaction on real architectures, golden numbers, faults, files."""

import copy
import json
import pickle
import warnings
from dataclasses import dataclass

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.ao.pruning.sparsifier.utils import FakeSparsity
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torch.fx.experimental.optimization import fuse
from torch.nn.utils import parametrizations, parametrize, prune

from pneumoprune.alexnet import copy_network, size_mb
from pneumoprune.channels import CompactionError
from pneumoprune.checkpoints import compact_file
from pneumoprune.compaction import ProofWarning, _tensors, compact, restore
from pneumoprune.networks import load_network, save_network

pytestmark = pytest.mark.filterwarnings("ignore::pneumoprune.compaction.ProofWarning")


def lively(model, seed=0):
    "Biases and statistics as after training, so that nothing is zero or one by accident"
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.1)
    return model


def masked(model, amount=0.3, dim=1, kinds=(nn.Conv2d, nn.Linear)):
    layers = [module for module in model.modules() if isinstance(module, kinds)]
    for layer in layers if dim == 1 else layers[:-1]:
        prune.random_structured(layer, "weight", amount=amount, dim=dim)
    return model


def recipe(model):
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            prune.ln_structured(module, "weight", amount=0.2, n=2, dim=1)
        elif isinstance(module, nn.Linear):
            prune.ln_structured(module, "weight", amount=0.4, n=2, dim=1)
    return model


def outputs(model, x):
    modes = {module: module.training for module in model.modules()}
    with torch.no_grad():
        result = model.eval()(x)
    for module, mode in modes.items():
        module.training = mode
    return result


def tiny(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers)


# --- the published recipe, in numbers


def test_recipe_on_alexnet_of_1000_outputs():
    torch.manual_seed(0)
    model = recipe(torchvision.models.alexnet())
    assert round(size_mb(model), 3) == 466.123
    small = compact(model, torch.randn(1, 3, 224, 224))
    report = small.report
    assert report.mb[0] == size_mb(model) and report.mb[1] == size_mb(small) <= 91
    assert report.difference <= 1e-12 and report.native_difference <= 1e-5
    widths = report.layers.loc[
        ["features.0", "features.3", "features.6", "features.8"], ["outputs_before", "outputs_after"]
    ]
    assert widths.to_numpy().tolist() == [[64, 51], [192, 154], [384, 307], [256, 205]]
    widths = report.layers.loc[["classifier.1", "classifier.4", "classifier.6"], ["inputs_before", "inputs_after"]]
    assert widths.to_numpy().tolist() == [[9216, 5530], [4096, 2458], [4096, 2458]]
    assert type(small) is torchvision.models.AlexNet


# --- the zoo

ZOO = {  # one of each way to put layers together
    "alexnet": 64, "squeezenet1_1": 64, "resnet18": 64, "mobilenet_v2": 32, "mobilenet_v3_small": 32, "googlenet": 32,
}  # fmt: skip
MORE = {  # the rest of the families: more of the same, and slower
    "vgg11": 32, "vgg13_bn": 32, "squeezenet1_0": 64, "resnet34": 32, "resnet50": 32, "densenet121": 32,
    "inception_v3": 75, "efficientnet_b0": 32, "mnasnet0_5": 32, "regnet_y_400mf": 32, "resnext50_32x4d": 32,
    "vgg16": 32, "vgg19_bn": 32, "resnet101": 32, "densenet169": 32, "mobilenet_v3_large": 32, "efficientnet_b1": 32,
    "regnet_x_400mf": 32, "wide_resnet50_2": 32,
}  # fmt: skip
SIDES = ZOO | MORE


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("name", [*ZOO, *(pytest.param(name, marks=pytest.mark.hard) for name in MORE)])
def test_zoo(name, dim):
    settings = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = getattr(torchvision.models, name)(num_classes=5, **settings)
    if name.startswith(("vgg", "alexnet")):  # the same code, a fraction of the weights
        wide = [i for i, module in enumerate(model.classifier) if isinstance(module, nn.Linear)]
        for i, widths in zip(wide, [(model.classifier[wide[0]].in_features, 96), (96, 64), (64, 5)]):
            model.classifier[i] = nn.Linear(*widths)
    model = masked(lively(model), dim=dim)
    x = torch.randn(2, 3, SIDES[name], SIDES[name])
    small = compact(model, x)
    report = small.report
    assert report.difference <= (1e-12 if dim == 1 else 1e-6)  # constants are rounded to float32 once
    assert report.parameters[1] < 0.87 * report.parameters[0] and report.macs[1] < 0.9 * report.macs[0]
    torch.testing.assert_close(outputs(small, x), outputs(model, x), rtol=1e-4, atol=1e-5)
    assert type(small) is type(model)
    trained = {name for name, parameter in small.named_parameters() if parameter.requires_grad}
    assert trained <= {name.removesuffix("_orig") for name, _ in model.named_parameters()}


# --- what goes, and what has to stay


def test_dim1_mask_kills_the_producer():
    model = tiny(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(4 * 16, 2))
    mask = torch.ones_like(model[2].weight)
    mask[:, [1, 4, 5]] = 0
    prune.custom_from_mask(model[2], "weight", mask)
    small = compact(model, torch.randn(2, 3, 8, 8))
    outs, ins = small.report.kept["0"]
    assert outs.tolist() == [0, 2, 3, 6, 7] and ins.tolist() == [0, 1, 2]
    assert torch.equal(small[0].weight, model[0].weight[[0, 2, 3, 6, 7]])
    assert small[2].weight.shape == (4, 5, 3, 3)


def test_constant_moves_into_the_next_bias():
    model = tiny(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 2, 3, bias=False), nn.Flatten())
    model[0].weight.data[1] = 0
    model[0].bias.data[1] = 0.7
    small = compact(model, torch.randn(2, 1, 12, 12))
    assert small[0].weight.shape == (2, 1, 3, 3)
    torch.testing.assert_close(small[3].bias, 0.7 * model[3].weight[:, 1].sum((1, 2)))
    assert not small[3].bias.requires_grad  # the given network had none to train


def test_behind_zero_padding_one_constant_speaks_for_all():
    model = tiny(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 3, padding=1), nn.Flatten())
    model[0].weight.data[[1, 3, 4]] = 0
    model[0].bias.data[[1, 3, 4]] = torch.tensor([0.5, 2.0, -1.0])  # the last one is cut off by ReLU: it leaves
    small = compact(model.double(), torch.randn(2, 1, 7, 7).double(), atol=1e-12)
    assert small[0].weight.shape[0] == 4
    outs = small.report.kept["0"][0].tolist()
    assert outs == [0, 2, 3, 5]


def test_padded_depthwise_layers_keep_their_constants():
    model = tiny(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.Flatten())
    model[0].weight.data[:] = 0
    model[0].bias.data[:] = 1.0
    assert compact(model, torch.randn(2, 1, 5, 5))[0].weight.shape[0] == 3


def test_batch_norm_takes_constants_off_its_mean_and_scales_of_zero_are_constants():
    model = lively(tiny(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False),
                        nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten()))  # fmt: skip
    model[1].weight.data[2], model[1].bias.data[2] = 0, 1.5
    small = compact(model.double(), torch.randn(2, 2, 9, 9).double(), atol=1e-12)
    assert small[1].num_features == 3 and small[3].bias is None
    assert not torch.equal(small[4].running_mean, model[4].running_mean)
    # batch statistics, too, are those of the given network
    x = torch.randn(4, 2, 9, 9).double()
    torch.testing.assert_close(small.train()(x), copy.deepcopy(model).train()(x))


def test_residual_branches_are_placed_among_constants():
    model = masked(lively(torchvision.models.resnet18(num_classes=3)), 0.5, dim=0)
    small = compact(model, torch.randn(2, 3, 32, 32))
    wired = [m for m in small.modules() if getattr(m, "place", None) is not None]
    assert wired and all(type(m).__name__ == "WiredBatchNorm2d" for m in wired)
    assert len(small.layer1[0].conv2.weight) == 32


def test_single_dead_columns_are_left_out_only_where_it_pays():
    model = tiny(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 40))
    mask = torch.ones_like(model[2].weight)
    mask[:, ::3] = 0
    prune.custom_from_mask(model[2], "weight", mask)
    small = compact(model, torch.randn(2, 1, 8, 8))
    assert small[2].weight.shape == (40, 96) and small[2].in_features == 144 and len(small[2].index) == 96
    model[2] = nn.Linear(4 * 36, 2)
    model[2].weight.data[:, 5] = 0  # one column of two weights: copying the other 143 costs more
    assert compact(model, torch.randn(2, 1, 8, 8))[2].weight.shape == (2, 144)


@pytest.mark.parametrize("position", [0, 2, 5])
def test_a_layer_emptied_entirely(position):
    model = tiny(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    prune.custom_from_mask(model[position], "weight", torch.zeros_like(model[position].weight))
    with pytest.warns(ProofWarning, match="proves nothing"):
        small = compact(model.double(), torch.randn(2, 3, 8, 8).double(), atol=1e-12)
    assert len(small[0].weight) == len(small[2].weight) == 1 and len(small[5].weight) == 3


def test_shared_and_tied_layers_stay_as_they_are():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            return self.c(self.b(torch.relu(self.b(torch.relu(self.a(x)))))).mean([2, 3])

    torch.manual_seed(0)
    model = masked(Twice(), 0.5)
    small = compact(model, torch.randn(2, 3, 6, 6))
    assert small.b.weight.shape == (6, 6, 3, 3) and small.report.difference < 1e-12
    tied = tiny(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    tied[0].weight.data[:, :3] = 0
    tied[2].weight = tied[0].weight
    small = compact(tied, torch.randn(3, 6))
    assert small[2].weight is small[0].weight


def test_numbers_of_channels_in_the_code_are_rewritten():
    class View(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36, 2)

        def forward(self, x):
            x = F.dropout(F.relu(self.conv(x)), 0.5, self.training)
            return self.fc(x.view(-1, 8 * 36))

    torch.manual_seed(0)
    model = View().train()
    model.fc.weight.data.reshape(2, 8, 36)[:, [0, 3]] = 0
    x = torch.randn(4, 3, 8, 8)
    small = compact(model, x)
    assert small.conv.weight.shape[0] == 6 and small.training
    assert not torch.equal(small(x), small(x))  # dropout works
    torch.testing.assert_close(outputs(small, x), outputs(model, x))


def test_in_place_operations_change_what_others_read():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            x = self.a(x)
            y = self.b(F.relu_(x))
            y += x  # x after relu_
            return self.c(y).mean([2, 3])

    torch.manual_seed(0)
    model = InPlace()
    model.a.weight.data[::2] = 0
    model.a.bias.data[::2] = -1.0
    model.b.weight.data[1] = 0
    assert compact(model, torch.randn(2, 3, 6, 6)).report.difference < 1e-7


def test_inputs_of_one_and_three_axes_and_several_of_them():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv1d(2, 6, 3), nn.Linear(5, 4), nn.Linear(10, 3)

        def forward(self, x, y):
            x = F.adaptive_avg_pool1d(torch.tanh(self.a(x)), 1).squeeze(-1)
            return {"scores": self.c(torch.cat([x, torch.relu(self.b(y))], dim=-1)), "shape": x.shape[0]}

    torch.manual_seed(0)
    model = Two()
    model.c.weight.data[:, [1, 2, 7]] = 0
    small = compact(model, (torch.randn(3, 2, 9), torch.randn(3, 5)))
    assert len(small.a.weight) == 4 and len(small.b.weight) == 3
    volume = tiny(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
                  nn.Linear(4, 2))  # fmt: skip
    volume[5].weight.data[:, 2] = 0
    assert len(compact(volume, torch.randn(2, 1, 4, 5, 6))[0].weight) == 3


# --- the given network is left as it was


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_mode_dtype_and_values(dtype):
    model = masked(tiny(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2)), dim=1)
    model.to(dtype).train()
    model[1].eval()  # as in fine-tuning with frozen statistics
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(2, 3, 8, 8)
    state = torch.get_rng_state()
    small = compact(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training and not model[1].training and small.training and not small[1].training
    assert {p.dtype for p in small.parameters()} == {dtype}
    assert len(list(model.buffers())) == len(before) - len(list(model.parameters()))


def test_parametrizations_and_masks_become_weights():
    model = tiny(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4 * 16, 2))
    parametrizations.weight_norm(model[0])
    masked(model[2], 0.5)
    model[0](torch.randn(1, 1, 8, 8))
    small = compact(model, torch.randn(2, 1, 8, 8))
    assert len(small[0].weight) == 2 and not hasattr(small[0], "parametrizations")


class Half(nn.Module):
    def forward(self, weight):
        return weight / 2


def sparse(layer, name="weight"):
    return parametrize.register_parametrization(layer, name, FakeSparsity(torch.ones_like(layer.weight)))


def pruned(layer, name="weight"):
    return prune.l1_unstructured(layer, name, amount=0.4)


def remade(*changes):
    "One change after another to a layer"

    def change(layer):
        for one in changes:
            one(layer)

    return change


COMPUTED = {  # ways to compute the weight of a layer anew in every forward pass
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "FakeSparsity": sparse,
    "own": lambda layer: parametrize.register_parametrization(layer, "weight", Half()),
    "two": remade(parametrizations.weight_norm, sparse),
    "bias": lambda layer: parametrize.register_parametrization(layer, "bias", Half()),
    "old weight_norm": nn.utils.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "old weight_norm, pruned": remade(nn.utils.weight_norm, lambda layer: pruned(layer, "weight_v")),
    "pruned, spectral_norm": remade(pruned, lambda layer: parametrizations.spectral_norm(layer, "weight_orig")),
    "weight_norm, pruned": remade(
        parametrizations.weight_norm, lambda layer: pruned(layer.parametrizations.weight, "original1")
    ),
    "pruned bias": remade(pruned, lambda layer: pruned(layer, "bias")),
    "pruned twice": remade(pruned, pruned),
    "removed": remade(pruned, lambda layer: prune.remove(layer, "weight"), pruned),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("how", COMPUTED)
def test_the_given_network_stays_what_it_was(how, tmp_path):
    model = tiny(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 2))
    COMPUTED[how](model[0])
    COMPUTED[how](model[5])
    masked(model[3], 0.5)
    x = torch.randn(2, 3, 8, 8)
    model.train()(x).sum().backward()  # computed weights have a history, parameters a gradient
    model[1].eval()
    twin = copy_network(model)

    def state(network):
        kinds = {name: type(module) for name, module in network.named_modules()}
        values = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        about = [(name, p.requires_grad, p.grad is None) for name, p in network.named_parameters()]
        hooks = {name: list(module._forward_pre_hooks.values()) for name, module in network.named_modules()}
        return (kinds, about, [module.training for module in network.modules()], hooks), values

    before, seeds = state(model), torch.get_rng_state()
    small = compact(model, x)
    save_network(model, tmp_path / "n.safetensors")
    after = state(model)
    assert after[0] == before[0]
    torch.testing.assert_close(after[1], before[1], rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), seeds)
    expected = outputs(model, x)
    for other in (twin, small, load_network(tmp_path / "n.safetensors")):
        torch.testing.assert_close(outputs(other, x), expected)
    assert len(small[0].weight) < 8 and type(small[0]) is nn.Conv2d and type(small[5]) is nn.Linear
    pickle.loads(pickle.dumps(small))
    assert torch.equal(outputs(copy.deepcopy(small), x), outputs(small, x))


def test_tied_weights_stay_tied_where_their_masks_are_equal():
    model = tiny(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[2].weight = model[4].weight = model[0].weight
    for layer in (model[0], model[2]):
        prune.custom_from_mask(layer, "weight", torch.ones(4, 4).tril())
    x = torch.randn(5, 4)
    small = compact(model, x)
    assert small[0].weight is small[2].weight and small[4].weight is not small[0].weight
    torch.testing.assert_close(outputs(small, x), outputs(model, x))


# --- what reads the given network reads the compacted one


class Wires(nn.Module):
    "Every kind of wired layer: constants among the channels of additions, single features left out after a flatten"

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 5, padding=2), nn.BatchNorm2d(16), nn.Conv2d(3, 16, 1)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.c, self.d, self.e = nn.Linear(16 * 36, 60), nn.BatchNorm1d(60), nn.Linear(16 * 36, 60)
        self.last = nn.Linear(60, 2)

    def forward(self, x):
        x = F.relu(self.norm(self.a(x)) + self.b(x))
        x = (self.conv(x) + x).flatten(1)
        return self.last(F.relu(self.d(self.c(x)) + self.e(x)))


def wires():
    torch.manual_seed(0)
    model = lively(Wires())
    for layer in (model.a, model.conv):
        prune.ln_structured(layer, "weight", amount=0.5, n=2, dim=0)
    dead = torch.ones(60, 576)
    dead[::2] = 0
    dead[:, ::3] = 0
    prune.custom_from_mask(model.c, "weight", dead)
    return compact(model, torch.randn(2, 3, 6, 6)).eval(), torch.randn(3, 3, 6, 6)


def quantised(model, x):
    mapping = get_default_qconfig_mapping("onednn")
    prepared = prepare_fx(copy.deepcopy(model), mapping, (x,))
    prepared(x)
    return convert_fx(prepared)(x)


def by_onnx(model, x):
    exported = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    return torch.from_numpy(exported(x)[0].numpy())


READERS = {
    "script": lambda model, x: torch.jit.script(model)(x),
    "jit.trace": lambda model, x: torch.jit.trace(model, x)(x),
    "symbolic_trace": lambda model, x: torch.fx.symbolic_trace(model)(x),
    "fuse": lambda model, x: fuse(copy.deepcopy(model))(x),
    "export": lambda model, x: torch.export.export(model, (x,)).module()(x),
    "compile": lambda model, x: torch.compile(model, backend="eager", fullgraph=True)(x),
    "quantisation": quantised,
    "onnx": by_onnx,
    "pickle": lambda model, x: pickle.loads(pickle.dumps(model))(x),
    "deepcopy": lambda model, x: copy.deepcopy(model)(x),
    "bfloat16": lambda model, x: copy.deepcopy(model).bfloat16()(x.bfloat16()).float(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "reader", [pytest.param(name, marks=[pytest.mark.hard] * (name in ("onnx", "quantisation"))) for name in READERS]
)
def test_compacted_networks_are_read_as_any_other(reader):
    small, x = wires()
    kinds = {type(m).__name__ for m in small.modules() if getattr(m, "place", None) is not None}
    assert kinds == {"WiredBatchNorm2d", "WiredConv2d", "WiredBatchNorm1d"} and small.c.index is not None
    with torch.no_grad():
        expected, found = small(x), READERS[reader](small, x)
    tolerance = 0.1 if reader in ("quantisation", "bfloat16") else 1e-5
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_compacted_networks_train_when_scripted():
    small, x = wires()
    scripted = torch.jit.script(copy.deepcopy(small)).train()
    torch.testing.assert_close(scripted(x), small.train()(x))
    torch.testing.assert_close(scripted.norm.running_mean, small.norm.running_mean)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    model = masked(lively(torchvision.models.resnet18(num_classes=3)), dim=0).cuda()
    small = compact(model, torch.randn(2, 3, 32, 32).cuda())
    assert {t.device.type for t in small.state_dict().values()} == {"cuda"}


# --- faults


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.inner(x) if x.sum() > 0 else x


class Wild(nn.Module):
    def forward(self, x):
        return torch.cumsum(x, 1)


@pytest.mark.parametrize("part", [Branching(), Wild()])
def test_unknown_parts_keep_the_channels_around_them(part):
    model = tiny(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3), part, nn.Conv2d(4, 6, 1), nn.Conv2d(6, 2, 1), nn.Flatten())
    model[1].weight.data[:, 3] = 0
    model[1].weight.data[2] = 0
    model[4].weight.data[:, 5] = 0
    if isinstance(part, Branching):
        with pytest.raises(CompactionError, match="module '2' .Branching. cannot be traced"):
            compact(model, torch.randn(3, 1, 8, 8))
    small = compact(model, torch.randn(3, 1, 8, 8), strict=isinstance(part, Wild))
    assert [len(small[i].weight) for i in (0, 1, 3)] == [7, 4, 5] and small.report.difference < 1e-12


def test_a_network_that_cannot_be_traced_at_all():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            return self.a(x) if x.sum() > 0 else x

    for strict in (True, False):
        with pytest.raises(CompactionError, match="the forward of Whole, the network itself, cannot be traced.*module"):
            compact(Whole(), torch.randn(2, 4), strict=strict)


def test_random_networks_fail_the_proof():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            return self.a(F.dropout(x))  # training=True by default: the usual mistake

    with pytest.raises(CompactionError, match="random in eval mode"):
        compact(Noisy(), torch.randn(2, 4))


def test_hooks_that_change_outputs_are_part_of_the_network():
    model = tiny(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].weight.data[1], model[0].bias.data[1] = 0, 0
    model[0].register_forward_hook(lambda module, args, out: out + 1)
    small, x = compact(model, torch.randn(2, 4)), torch.randn(5, 4)
    torch.testing.assert_close(small(x), model(x))
    assert len(small[0].weight) == 3


@pytest.mark.parametrize("example", [torch.zeros(2, 3, dtype=torch.long), torch.zeros(3), torch.zeros(0, 4), ()])
def test_example_input_must_be_a_batch(example):
    with pytest.raises(CompactionError, match="example_input"):
        compact(nn.Linear(4, 2), example)


def test_a_proof_that_proves_nothing_warns():
    model = tiny(nn.Linear(4, 3))
    model[0].bias.data[1] = 1e6
    with pytest.warns(ProofWarning, match="nearly the same answer"):
        compact(model, torch.randn(3, 4))


def test_a_proof_that_says_enough_does_not_warn():
    "One class for all inputs, a regression, a map for each image, untrained networks: what varies is compared"
    one_class = tiny(nn.Linear(4, 3))
    one_class[0].bias.data[1] = 1e3
    maps = tiny(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1))
    deep = (layer for _ in range(8) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()))
    untrained = tiny(nn.Conv2d(3, 8, 3), *deep, nn.Flatten(), nn.Linear(8 * 36, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ProofWarning)
        for model in (one_class, tiny(nn.Linear(4, 1)), tiny(nn.Linear(4, 2))):
            compact(model, torch.randn(3, 4))
        for model in (maps, untrained):
            compact(model, torch.randn(2, 3, 8, 8))


# --- answers of every kind


@dataclass
class Answer:
    logits: torch.Tensor
    hidden: tuple | None = None


class Ends(nn.Module):
    "A network that ends in any function of its scores"

    def __init__(self, end, outputs=3):
        super().__init__()
        self.conv, self.out, self.end = nn.Conv2d(3, 8, 3), nn.Linear(8, outputs), end

    def forward(self, x):
        return self.end(self.out(F.relu(self.conv(x)).mean((2, 3))))


ENDS = {
    "squeeze": (1, lambda y: y.squeeze(1)),
    "column": (3, lambda y: y[:, 0]),
    "flat": (1, lambda y: y.view(-1)),
    "probability": (2, lambda y: y.softmax(1)[:, 1]),
    "class": (3, lambda y: y.argmax(1)),
    "decision": (3, lambda y: y > 0),
    "whole numbers": (3, lambda y: (10 * y).round().to(torch.int32)),
    "scalar": (3, lambda y: y.mean()),
    "tuple": (3, lambda y: (y, None, y.sum())),
    "nested": (3, lambda y: {"a": [y, y.exp()], "b": (y[:, :2],)}),
    "dataclass": (3, lambda y: Answer(y, (y.exp(),))),
    "complex": (3, lambda y: torch.complex(y, y)),
}


@pytest.mark.parametrize("end", ENDS)
def test_answers_of_every_kind_are_compared(end):
    torch.manual_seed(0)
    outputs_, function = ENDS[end]
    model = Ends(function, outputs_)
    prune.ln_structured(model.out, "weight", 0.5, n=2, dim=1)
    small = compact(model, torch.randn(4, 3, 8, 8), strict=False)
    assert small.report.difference < 1e-12 and len(small.conv.weight) == 4
    x = torch.randn(5, 3, 8, 8).double()
    expected, found = (_tensors(outputs(copy_network(net).double(), x)) for net in (model, small))
    torch.testing.assert_close(found, expected)


def test_a_width_that_is_answered_stays():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            x = self.a(x)
            return {"first": self.b(x), "hidden": x.shape[1]}

    model = Two()
    model.b.weight.data[:, :3] = 0
    assert compact(model, torch.randn(3, 4))(torch.randn(3, 4))["hidden"] == 6


# --- NaN, and arguments that do not fit


class Root(nn.Module):
    def __init__(self, shift):
        super().__init__()
        self.a, self.b, self.shift = nn.Linear(4, 6), nn.Linear(6, 2), shift

    def forward(self, x):
        return self.b(torch.sqrt(self.a(x) + self.shift))


def test_nan_is_refused_by_name():
    model = tiny(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    model[0].bias.data[1] = torch.inf
    with pytest.raises(CompactionError, match=r"0\.bias holds 1 numbers that are NaN or infinite"):
        compact(model, torch.randn(3, 4))
    model[0].bias.data[1] = 0
    model[1].running_mean[0] = torch.nan
    with pytest.raises(CompactionError, match=r"1\.running_mean"):
        compact(model, torch.randn(3, 4))
    with pytest.raises(CompactionError, match="output of the network is NaN"):
        compact(Root(-100), torch.randn(3, 4))
    half = tiny(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).half()
    half[0].weight.data[:], half[2].weight.data[:] = 1000, 1000
    with pytest.raises(CompactionError, match="not finite in float16"):
        compact(half, torch.ones(3, 4))


def test_noise_may_be_what_a_network_cannot_take():
    model = Root(1)
    model.a.weight.data.abs_(), model.a.bias.data.abs_()
    model.b.weight.data[:, :3] = 0  # roots of negative noise are NaN, in both networks alike
    assert compact(model, torch.rand(3, 4)).a.out_features == 3


@pytest.mark.parametrize(
    "example, words",
    [
        ((1, 3, 8, 8), "is a shape"),
        (torch.randn(3, 8, 8, device="meta"), "on meta is no batch"),
        (torch.randn(0, 3, 8, 8), "no batch"),
        (torch.randn(2, 4, 8, 8), "does not run on example_input of shape .2, 4, 8, 8."),
        (torch.randn(2, 3, 2, 2), "does not run"),
        (torch.full((2, 3, 8, 8), torch.nan), "NaN"),
        ("images", "must be a batch"),
        (None, "must be a batch"),
    ],
)
def test_examples_that_do_not_fit(example, words):
    with pytest.raises(CompactionError, match=words) as caught:
        compact(tiny(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2)), example)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("atol", [-1, float("nan"), float("inf"), "1e-5", None, True])
def test_tolerances_that_are_none(atol):
    with pytest.raises(CompactionError, match="atol"):
        compact(nn.Linear(4, 2), torch.randn(3, 4), atol=atol)


@pytest.mark.parametrize("model", [nn.Linear, "resnet18", {"weight": torch.ones(2)}, None, lambda x: x])
def test_what_is_no_network(model):
    with pytest.raises(CompactionError, match="compact takes a network"):
        compact(model, torch.randn(3, 4))


def test_networks_without_values():
    for model in (nn.Linear(4, 2, device="meta"), nn.Sequential(nn.LazyLinear(3))):
        with pytest.raises(CompactionError, match="weight has no values yet"):
            compact(model, torch.randn(3, 4))


def test_batches_of_one_and_batch_sizes_in_the_code():
    class Sized(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.conv, self.last, self.size = nn.Conv2d(3, 6, 3), nn.Linear(6 * 36, 2), size

        def forward(self, x):
            return self.last(self.conv(x).view(self.size, 216))

    for size in (1, 4):
        model = Sized(size)
        model.last.weight.data[:, :72] = 0
        assert len(compact(model, torch.randn(size, 3, 8, 8)).conv.weight) == 4
    with pytest.raises(CompactionError, match="at most 8 inputs"):
        compact(Sized(12), torch.randn(12, 3, 8, 8))


# --- in training mode


class Trained(nn.Module):
    def __init__(self, extra):
        super().__init__()
        self.conv, self.fc, self.out, self.aux = nn.Conv2d(3, 8, 3), nn.Linear(288, 4), nn.Linear(4, 2), nn.Linear(8, 2)
        self.extra = extra

    def forward(self, x):
        x = self.extra(self, F.relu(self.conv(x)))
        return self.out(F.relu(self.fc(x.view(-1, 288))))


def as_graph(extra):
    torch.manual_seed(0)
    model = Trained(extra)
    model.fc.weight.data[:, :72] = 0
    return compact(model, torch.randn(4, 3, 8, 8))


KEPT = {
    "dropout": (lambda net, x: F.dropout(x, 0.3, net.training), nn.Dropout),
    "dropout2d": (lambda net, x: F.dropout2d(x, 0.3, net.training), nn.Dropout2d),
    "alpha_dropout": (lambda net, x: F.alpha_dropout(x, p=0.3, training=net.training), nn.AlphaDropout),
    "feature": (lambda net, x: F.feature_alpha_dropout(x, 0.3, net.training), nn.FeatureAlphaDropout),
    "torch.dropout": (lambda net, x: torch.dropout(x, 0.3, net.training), nn.Dropout),
    "probability": (lambda net, x: F.dropout(x, 0.3 if net.training else 0.0), nn.Dropout),
}


@pytest.mark.filterwarnings("error::UserWarning", "ignore::pneumoprune.compaction.ProofWarning")
@pytest.mark.parametrize("kind", KEPT)
def test_dropout_follows_the_mode(kind, tmp_path):
    extra, module = KEPT[kind]
    small, x = as_graph(extra), torch.randn(4, 3, 8, 8)
    save_network(small, tmp_path / "n.safetensors")
    for network in (small, load_network(tmp_path / "n.safetensors")):
        assert [m.p for m in network.modules() if type(m) is module] == [0.3]
        assert not torch.equal(network.train()(x), network(x)) and torch.equal(network.eval()(x), network(x))


def test_dropout_that_never_drops_is_left_out():
    small = as_graph(lambda net, x: F.dropout(x, 0.3, False))
    assert not any(isinstance(module, nn.Dropout) for module in small.modules())


@pytest.mark.parametrize(
    "extra, words",
    [
        (lambda net, x: x + torch.randn_like(x) if net.training else x, "randn_like"),
        (lambda net, x: x + net.aux(x.mean((2, 3))).sum() if net.training else x, "aux"),
        (lambda net, x: F.dropout(x, 0.3) if net.training else x, "dropout"),
    ],
)
def test_what_training_loses_is_named(extra, words):
    with pytest.warns(UserWarning, match=f"in training mode this network also runs .*{words}"):
        as_graph(extra)


def test_reports_are_kept_with_the_network():
    for small in (as_graph(KEPT["dropout"][0]), compact(tiny(nn.Linear(4, 3)), torch.randn(9, 4))):
        copied, pickled = copy.deepcopy(copy.deepcopy(small).double()), pickle.loads(pickle.dumps(small))
        for kept in (copied, copy.deepcopy(pickled), torch.compile(small, backend="eager")):
            assert kept.report.parameters == small.report.parameters
    small = as_graph(KEPT["dropout"][0])
    again = pickle.loads(pickle.dumps(small.train()))
    x = torch.randn(2, 3, 8, 8)
    assert again.training and torch.equal(outputs(again, x), outputs(small, x))


@pytest.mark.parametrize("mode", [True, False])
def test_compacting_again_removes_nothing(mode):
    model = masked(masked(lively(Wires()), 0.3, dim=0), 0.3).train(mode)
    x = torch.randn(3, 3, 6, 6)
    small = compact(model, x)
    again = compact(small, x)
    assert again.report.parameters[0] == again.report.parameters[1] == small.report.parameters[1]
    assert again.training is mode and again.report.macs[0] == again.report.macs[1]


# --- training the compacted network is training the masked one


@pytest.mark.parametrize("momentum, decay", [(0.0, 0.0), (0.9, 0.0), (0.9, 5e-4)])
def test_training_steps_agree(momentum, decay):
    from pneumoprune.alexnet import narrow_alexnet

    torch.manual_seed(0)
    model = recipe(narrow_alexnet((8, 12, 16, 12, 8), (32, 24), outputs=2, dropout=0.0)).double()
    x, y = torch.randn(6, 3, 64, 64).double(), torch.tensor([0, 1, 0, 1, 1, 0])
    small = compact(model, x)
    with torch.no_grad():
        model(x)  # computed weights without history can be copied
    untrained = copy.deepcopy(model)
    for network in (model, small):
        network.train()
        optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=momentum, weight_decay=decay)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
    again = restore(small, copy.deepcopy(untrained))
    torch.testing.assert_close(outputs(again, x), outputs(model, x), rtol=1e-10, atol=1e-12)
    for (name, trained), restored in zip(model.named_parameters(), again.parameters()):
        layer = name.rpartition(".")[0]
        rows, columns = (torch.from_numpy(kept) for kept in small.report.kept[layer])
        pick = (lambda t: t[rows]) if trained.dim() == 1 else (lambda t: t[rows][:, columns])  # noqa: B023
        torch.testing.assert_close(pick(restored), pick(trained), rtol=1e-10, atol=1e-12)


def test_batch_norm_trains_alike():
    features = torchvision.models.vgg.make_layers([8, "M", 16, "M", 24, 24, "M"], batch_norm=True)
    model = lively(nn.Sequential(features, nn.Flatten(), nn.Linear(24 * 16, 2))).double().train()
    masked(features[1:])  # a masked image plane still comes in: its zeros would be trained
    x, y = torch.randn(4, 3, 32, 32).double(), torch.tensor([0, 1, 1, 0])
    small = compact(model, x)
    for network in (model, small):
        optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
    torch.testing.assert_close(outputs(small, x), outputs(model, x), rtol=1e-9, atol=1e-9)


def test_residual_networks_train_alike():
    model = lively(torchvision.models.resnet18(num_classes=2)).double().train()
    for name, module in model.named_modules():
        if name.endswith("conv2"):  # its inputs are made inside the block, and leave with their masks
            prune.random_structured(module, "weight", amount=0.3, dim=1)
    x, y = torch.randn(4, 3, 32, 32).double(), torch.tensor([0, 1, 1, 0])
    small = compact(model, x)
    assert len(small.layer1[0].conv1.weight) == 45 and not small.report.constants
    for network in (model, small):
        optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
    torch.testing.assert_close(outputs(small, x), outputs(model, x), rtol=1e-9, atol=1e-9)


def test_restore_refuses_what_does_not_fit():
    model = masked(tiny(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    with pytest.raises(CompactionError, match="not made by compact"):
        restore(nn.Linear(4, 2), model)
    small = compact(model, torch.randn(8, 4))
    with pytest.raises(CompactionError, match="no module"):
        restore(small, nn.Sequential(nn.Linear(4, 6)))


def test_restore_notices_constants_that_training_moved():
    model = tiny(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 3, padding=1), nn.Flatten()).double()
    model[0].weight.data[[1, 3]], model[0].bias.data[[1, 3]] = 0, 1.0
    small = compact(model, torch.randn(8, 1, 5, 5).double())
    restore(small, model)
    with torch.no_grad():
        small[0].bias += 0.5  # among them the one that speaks for both
    with pytest.raises(CompactionError, match="took for constant"):
        restore(small, model)


def test_restore_names_masked_weights_that_were_trained():
    model = tiny(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    prune.ln_structured(model[0], "weight", 0.5, n=2, dim=1)  # inputs of the network come in, masked or not
    small = compact(model, torch.randn(8, 4))
    with torch.no_grad():
        small[0].weight += 0.5
    with pytest.raises(CompactionError, match="weights of 0 that masks hold at zero"):
        restore(small, model)


# --- files


@pytest.fixture(scope="module")
def resnet():
    return compact(masked(lively(torchvision.models.resnet18(num_classes=3)), dim=0), torch.randn(2, 3, 32, 32))


@pytest.fixture
def saved(resnet, tmp_path):
    save_network(resnet, tmp_path / "small.safetensors", threshold=0.4, note="Größe")
    return resnet, tmp_path / "small.safetensors"


def rewritten(path, change):
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    description = json.loads(metadata["pneumoprune"])
    change(description, tensors)
    save_file(tensors, path, {"pneumoprune": json.dumps(description)})
    return path


def test_saved_networks_come_back(saved):
    small, path = saved
    loaded = load_network(path)
    x = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(outputs(loaded, x), outputs(small, x))
    assert loaded.metadata == {"threshold": "0.4", "note": "Größe"} and not loaded.training
    assert loaded.state_dict().keys() == small.state_dict().keys()
    assert isinstance(loaded.layer1, nn.Sequential)
    again = compact(loaded, x)
    assert again.report.parameters[0] == again.report.parameters[1]


def test_what_is_loaded_has_neither_classes_of_torchvision_nor_masks(saved):
    loaded = load_network(saved[1])
    classes = {kind.__module__ for module in loaded.modules() for kind in type(module).__mro__}
    assert not [name for name in classes if name.startswith("torchvision")]
    assert not any(prune.is_pruned(module) for module in loaded.modules())


@pytest.mark.parametrize("name", ["mobilenet_v3_small", pytest.param("densenet121", marks=pytest.mark.hard)])
def test_zoo_in_files(name, tmp_path):
    model = masked(lively(getattr(torchvision.models, name)(num_classes=3)))
    x = torch.randn(2, 3, 32, 32)
    small = compact(model, x)
    save_network(small, tmp_path / "n.safetensors")
    torch.testing.assert_close(outputs(load_network(tmp_path / "n.safetensors"), x), outputs(small, x))


def test_files_that_are_no_networks(saved, tmp_path):
    path = saved[1]
    whole = path.read_bytes()
    for name, content, words in [
        ("half", whole[: len(whole) // 2], "damaged"),
        ("text", b"weights, honestly", "damaged"),
        ("empty", b"", "damaged"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CompactionError, match=words) as caught:
            load_network(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(CompactionError, match="is missing"):
        load_network(tmp_path / "nowhere.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(CompactionError, match="no architecture"):
        load_network(tmp_path / "bare.safetensors")
    assert load_network(path, nn.Identity()).state_dict().keys() == load_network(path).state_dict().keys()  # not needed


def test_descriptions_that_lie(saved):
    path = saved[1]

    def check(change, words="no network that this version knows"):
        original = path.read_bytes()
        with pytest.raises(CompactionError, match=words):
            load_network(rewritten(path, change))
        path.write_bytes(original)

    def node(index, place, value):
        return lambda description, tensors: description["nodes"][index].__setitem__(place, value)

    check(lambda d, t: d.update(format=99), "update pneumoprune")
    check(lambda d, t: d.pop("nodes"))
    check(lambda d, t: d["modules"]["conv1"].update(kind="Embedding"))
    check(lambda d, t: d["modules"]["conv1"].update(kernel_size=5), "no network")
    check(lambda d, t: t.pop("conv1.weight"))
    check(node(1, 2, "os.system"))
    check(node(0, 0, "x): import os #"))
    check(node(0, 2, "x=__import__('os').getcwd()"))
    ask = ["ask", "call_function", "builtins.getattr", [{"node": "x"}, "__class__"], {"dict": {}}]
    check(lambda d, t: d["nodes"].append(ask))
    check(lambda d, t: d["nodes"].append(["share", "call_method", "share_memory_", [{"node": "x"}], {"dict": {}}]))
    check(lambda d, t: d["nodes"][2][4].update(dict={"a=1, b": 2}))


def test_networks_that_are_not_data_are_not_saved(tmp_path):
    with pytest.raises(CompactionError, match="cannot be traced"):
        save_network(nn.Sequential(Branching()), tmp_path / "n.safetensors")
    with pytest.raises(CompactionError, match="Transformer"):
        save_network(nn.Sequential(nn.Transformer(8, 2, 1, 1, 8)), tmp_path / "n.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.hard
def test_export_to_onnx_and_torch_export(saved, tmp_path):
    small, path = saved
    x = torch.randn(2, 3, 32, 32)
    for model in (small.eval(), load_network(path)):
        exported = torch.export.export(model, (x,))
        torch.testing.assert_close(exported.module()(x), outputs(model, x))
    torch.onnx.export(model, (x,), tmp_path / "n.onnx", dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "n.onnx")
    one = torch.randn(5, 3, 32, 32)
    found = session.run(None, {session.get_inputs()[0].name: one.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), outputs(model, one), rtol=1e-3, atol=1e-4)


def test_files_from_elsewhere(tmp_path):
    model = masked(lively(torchvision.models.squeezenet1_1(num_classes=4)))
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "masked.pt")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "masked.safetensors")
    x = torch.randn(2, 3, 64, 64)
    for name in ("masked.pt", "masked.safetensors"):
        report = compact_file(tmp_path / name, "squeezenet1_1", tmp_path / "small.safetensors", size=64)
        assert report.mb[0] == size_mb(model) and report.parameters[1] < 0.6 * report.parameters[0]
        small = load_network(tmp_path / "small.safetensors")
        torch.testing.assert_close(outputs(small, x), outputs(model, x))
        assert small.metadata == {"arch": "squeezenet1_1", "source": name}


def test_files_from_elsewhere_that_do_not_fit(tmp_path):
    model = torchvision.models.squeezenet1_1(num_classes=4)
    torch.save(model, tmp_path / "whole.pt")
    torch.save(model.state_dict(), tmp_path / "state.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, arch, words in [
        ("whole.pt", "squeezenet1_1", "state_dict"),
        ("list.pt", "squeezenet1_1", "no state_dict"),
        ("state.pt", "squeezenet11", "did you mean"),
        ("state.pt", "resnet18", "no weights of resnet18"),
        ("nowhere.pt", "resnet18", "is missing"),
    ]:
        with pytest.raises(CompactionError, match=words):
            compact_file(tmp_path / name, arch, tmp_path / "out.safetensors", size=64)
    assert not (tmp_path / "out.safetensors").exists()


def test_report_reads():
    small = compact(masked(tiny(nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 2))), torch.randn(8, 40))
    text = str(small.report)
    assert "parameters" in text and "float64" in text and "60" in text
    assert list(small.report.summary.columns) == ["before", "after", "ratio"]
    assert small.report.layers.index.name == "layer" and "<table" in small.report._repr_html_()
    assert copy.deepcopy(small).report.parameters == small.report.parameters


# --- what the proof runs on, and what is said


class PadsToEvenSizes(nn.Module):
    "What it pads, and so whether a constant stays one, depends on the size of the image"

    def forward(self, x):
        return F.pad(x, (0, x.shape[3] % 5, 0, x.shape[2] % 5), value=0.0)


def test_noise_is_smaller_where_that_is_the_same_function_and_a_warning_says_so_where_not():
    def net(*between):
        return tiny(nn.Conv2d(3, 8, 3, 2), *between, nn.Conv2d(8, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compact(net(), torch.randn(1, 3, 101, 101)).report.inputs_checked == 7
    model = net(PadsToEvenSizes())
    model[0].weight.data[2], model[0].bias.data[2] = 0, 7.0
    with pytest.warns(ProofWarning, match="agree for inputs of 101x101, but not for smaller ones"):
        small = compact(model, torch.randn(1, 3, 101, 101))
    assert len(small[0].weight) == 7 and small.report.difference < 1e-5


def test_a_report_says_when_nothing_could_be_cut_and_how_large_the_outputs_are():
    model = tiny(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    prune.l1_unstructured(model[2], "weight", 0.3)
    report = compact(model, torch.randn(4, 6)).report
    assert "nothing to cut" in str(report) and "prune.ln_structured" in str(report)
    assert 0 < report.largest_output < 100 and f"outputs go up to {report.largest_output:.3g}" in str(report)
    prune.ln_structured(model[2], "weight", 0.5, n=2, dim=1)
    assert "nothing to cut" not in str(compact(model, torch.randn(4, 6)).report)
    prune.remove(model[2], "weight")
    model[2].weight.data = torch.randn(3, 8)
    prune.ln_structured(model[2], "weight", 0.3, n=2, dim=0)
    kept = str(compact(model, torch.randn(4, 6)).report)
    assert "had to stay in 2.weight" in kept and "nothing to cut" not in kept


def test_the_report_counts_what_went():
    class Dense(nn.Linear):
        "A layer whose class has another name than those of PyTorch"

    dense = tiny(Dense(6, 8), nn.ReLU(), Dense(8, 3))
    prune.ln_structured(dense[2], "weight", 0.5, n=2, dim=1)
    small = compact(dense, torch.randn(4, 6))
    assert "4 of 11 channels went; 2 of 2 layers are narrower" in str(small.report)
    assert small.report.channels == (11, 7)
    again = compact(small, torch.randn(4, 6)).report
    assert "nothing to cut" in str(again) and not again.details and again.channels == (7, 7)


def test_a_layer_that_only_reads_less():
    "The planes of an image come in whether they are read or not, and so do the numbers of a row"
    images, rows = tiny(nn.Conv2d(3, 40, 3), nn.ReLU(), nn.Conv2d(40, 8, 3)), tiny(nn.Linear(90, 40), nn.Linear(40, 8))
    images[0].weight.data[:, 1], rows[0].weight.data[:, 1:] = 0, 0
    for model, shape in ((images, (2, 3, 8, 8)), (rows, (2, 90))):
        report = compact(model, torch.randn(shape)).report
        assert "all 48 channels stay; 1 of 2 layers reads fewer of its inputs" in str(report)
        assert len(report.details.splitlines()) == 1


def test_constants_that_were_placed_before_are_nothing_new():
    "A network that was compacted before holds them"
    net = lively(torchvision.models.resnet18(num_classes=2))
    small = compact(masked(net, 0.4, dim=0, kinds=nn.Conv2d), torch.randn(2, 3, 32, 32))
    again = compact(small, torch.randn(2, 3, 32, 32)).report
    assert small.report.constants and "constant channels went" in small.report.details
    assert again.channels[0] == again.channels[1] and not again.details and "nothing was cut" in str(again)


def emptied(which):
    "A network through which nothing comes: a layer or norm of zeros, or outputs that the next layer doesn't read"
    body = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3)
    model = lively(tiny(*body, nn.Flatten(), nn.Linear(96, 3)))
    if which == "norm":
        model[1].weight.data[:] = 0
    elif which == "between":
        mask = torch.ones(8, 3, 3, 3)
        mask[:4] = 0
        prune.custom_from_mask(model[0], "weight", mask)
        model[3].weight.data[:, 4:] = 0
    else:
        prune.custom_from_mask(model[which], "weight", torch.zeros_like(model[which].weight))
    return model.double()


@pytest.mark.parametrize("which, where", [(0, "0"), (3, "3"), (5, "5"), ("norm", "1"), ("between", "3")])
def test_an_answer_that_no_longer_depends_on_the_input(which, where):
    with pytest.warns(ProofWarning, match=f"no longer depends on its input: nothing gets past module '{where}'"):
        report = compact(emptied(which), torch.randn(2, 3, 8, 8).double()).report
    assert report.constant_answer and report.dead_ends == (f"module '{where}'",)
    assert "no longer depends on its input" in str(report) and "module &#x27;" in report._repr_html_()


def test_an_answer_that_happens_to_be_the_same_or_of_which_one_part_is():
    "A network may be dead without a mask: no input gets its ReLU going. One of two answers may be constant"

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.dead, self.alive = nn.Linear(4, 3), nn.Linear(4, 3)
            self.dead.weight.data[:] = 0

        def forward(self, x):
            return self.dead(x), self.alive(x)

    drowned = tiny(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    drowned[0].bias.data[:] = -1e6
    with pytest.warns(ProofWarning, match="gives all .* inputs of the comparison the same answer"):
        report = compact(drowned, torch.randn(2, 4)).report
    assert report.constant_answer and not report.dead_ends and "the same answer" in str(report)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ProofWarning)
        report = compact(Both(), torch.randn(2, 4)).report
    assert not report.constant_answer and not report.dead_ends and "answer" not in str(report)


def test_whole_numbers_as_inputs_have_their_remedy():
    with pytest.raises(CompactionError, match=r"its numbers are int64: try example_input\.float\(\)"):
        compact(nn.Linear(4, 2), torch.zeros(2, 4).long())
    with pytest.raises(CompactionError) as told:
        compact(nn.Linear(4, 2), torch.zeros(2, 3))
    assert "at most" not in str(told.value)


def test_a_channel_shuffle_of_dead_channels_keeps_its_groups():
    end = nn.Conv2d(6, 2, 1), nn.Flatten(), nn.Linear(72, 3)
    model = tiny(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.ChannelShuffle(3), *end)
    prune.custom_from_mask(model[3], "weight", torch.zeros(2, 6, 1, 1))
    with pytest.warns(ProofWarning, match="proves nothing"):
        assert len(compact(model, torch.randn(2, 3, 8, 8))[0].weight) == 3


def test_a_shuffle_in_groups_of_one_channel():
    class Shuffled(nn.Module):
        def forward(self, x):
            n, c, h, w = x.shape
            return x.view(n, 3, c // 3, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)

    model = tiny(nn.Conv2d(3, 3, 3), Shuffled(), nn.Conv2d(3, 2, 3))
    model[2].weight.data[:, 1] = 0
    assert compact(model, torch.randn(2, 3, 8, 8)).report.kept["0"][0].tolist() == [0, 2]


def test_large_weights_are_doubled_by_rows_wherever_they_are_read(monkeypatch):
    class Reads(nn.Module):
        "Its code reads the weight of a layer that it calls, and of one that it does not"

        def __init__(self):
            super().__init__()
            self.first, self.second, self.end = nn.Linear(6, 9), nn.Linear(9, 9), nn.Linear(9, 2)

        def forward(self, x):
            x = self.first(x).relu() @ F.normalize(self.second.weight.T, dim=0)
            return self.end(x + self.end.weight.abs().sum(0))

    monkeypatch.setattr("pneumoprune.compaction._LARGE", 1)
    monkeypatch.setattr("pneumoprune.graph._BLOCK", 20)
    torch.manual_seed(0)
    model = Reads()
    model.second.weight.data[:, :4] = 0
    assert compact(model, torch.randn(4, 6)).report.difference == 0
    model = masked(lively(tiny(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 2))), 0.4)
    report = compact(model, torch.randn(4, 6)).report
    assert report.difference < 1e-15 and report.channels[1] < report.channels[0]
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())
