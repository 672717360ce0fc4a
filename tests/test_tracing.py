"""Compaction: what forward methods do besides calling layers, each kind exact and smaller."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import fx, nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from pneumoprune.alexnet import copy_network, count_macs
from pneumoprune.channels import CompactionError
from pneumoprune.compaction import compact, restore
from pneumoprune.graph import channel_graph
from pneumoprune.networks import load_network, save_network

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


class Same(nn.Conv2d):
    "Pads as TensorFlow does: what it adds depends on the size of the image"

    def forward(self, x):
        pads = [(math.ceil(n / s) - 1) * s + k - n for n, s, k in zip(x.size()[-2:], self.stride, self.kernel_size)]
        if max(pads) > 0:
            x = F.pad(x, [pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)


@pytest.mark.parametrize("dim", [0, 1])
def test_padding_that_depends_on_the_size_behind_functional_norms(dim):
    last = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    model = nn.Sequential(Same(3, 8, 3, 2, bias=False), NormAct(8), Same(8, 8, 3, 2, bias=False), NormAct(8), *last)
    check(masked(model, "0", "2", dim=dim), IMAGES)


# --- what networks from elsewhere are made of


class Decoder(nn.Module):
    "Up by transposed convolutions and a pixel shuffle, joined by name, with a check of a size"

    def __init__(self):
        super().__init__()
        self.a, self.up = nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, 12, 2, 2, groups=2)
        self.b, self.o = nn.Conv2d(12, 16, 3, padding=1), nn.Conv2d(7, 2, 1)

    def forward(self, x):
        torch._assert(x.shape[1] == 3, "three planes")
        y = self.b(F.relu(self.up(F.relu(self.a(x)))))
        torch._assert(y.shape[2] == 2 * x.shape[2], "twice as large")
        big = F.pixel_shuffle(y, 2)
        return self.o(torch.cat(tensors=[big, F.interpolate(x, size=big.shape[2:])], dim=1))


@pytest.mark.parametrize("dim", [0, 1])
def test_decoders(dim):
    model = Decoder()
    prune.ln_structured(model.up, "weight", 0.5, n=2, dim=1 - dim)  # its weight has a row for each input
    prune.ln_structured(model.b, "weight", 0.5, n=2, dim=dim)
    small = check(model.eval(), IMAGES, ratio=0.8)
    assert (small.up.in_channels, small.up.out_channels) != (8, 12)
    before = model.up.weight_orig.detach().clone()
    restore(small, model)
    assert torch.equal(model.up.weight_orig, before)


def detection_backbone():
    "As detection networks have it: frozen normalisations, a pyramid of features"
    frozen = torchvision.ops.misc.FrozenBatchNorm2d
    body = torchvision.models.resnet18(norm_layer=frozen)
    for module in body.modules():
        if isinstance(module, frozen):
            module.running_mean.normal_(), module.bias.normal_(), module.running_var.uniform_(0.5, 1.5)
    return torchvision.models.detection.backbone_utils._resnet_fpn_extractor(body, 3)


def test_backbones_of_detection_networks():
    torch.manual_seed(0)
    model = detection_backbone().eval().double()
    for name, module in model.body.named_modules():
        if isinstance(module, nn.Conv2d) and name != "conv1":
            prune.ln_structured(module, "weight", 0.3, n=2, dim=0)
    x = torch.randn(1, 3, 64, 64).double()
    small = compact(model, x)
    assert small.report.parameters[1] < 0.95 * small.report.parameters[0] and small.report.difference < 1e-12
    with torch.no_grad():
        for expected, found in zip(model(2 * x).values(), small(2 * x).values(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


class Unpacks(nn.Module):
    "Its code keeps a width of its own, and asserts on a shape"

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 1)

    def forward(self, x):
        assert x.shape[1] == 3
        n, c, *_ = self.a(x).shape
        return self.o(self.b(F.relu(self.a(x))).view(n, c, -1).amax(-1)).squeeze()


def test_what_is_caught_while_tracing_is_not_printed(capfd):
    model = Unpacks()
    prune.ln_structured(model.o, "weight", 0.5, n=2, dim=1)
    small = compact(model, torch.randn(3, 3, 8, 8))
    assert len(small.b.weight) == 4 and small.report.difference < 1e-12
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "normalise", [nn.utils.weight_norm, nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm]
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_shared_module_whose_weight_is_computed(normalise):
    shared = normalise(nn.Linear(8, 8))
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(8, 2)).eval()
    prune.ln_structured(model[6], "weight", 0.5, n=2, dim=1)
    x = torch.randn(5, 6)
    before = model(x)
    small = compact(model, x)
    torch.testing.assert_close(small(x), before)
    assert torch.equal(model(x), before) and small[2] is small[4]


def test_a_forward_that_clips_its_weights_leaves_the_given_ones():
    class Clips(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.o = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x):
            self.a.weight.data.clamp_(-0.2, 0.2)
            return self.o(F.relu(self.a(x)))

    model, x = Clips(), torch.randn(5, 6)
    prune.ln_structured(model.o, "weight", 0.5, n=2, dim=1)
    given, mask = model.a.weight.clone(), model.o.weight_mask
    small = compact(model, x)
    assert torch.equal(model.a.weight, given) and model.o.weight_mask is mask
    torch.testing.assert_close(small(x), model(x))


def test_tensors_of_the_code_keep_their_width():
    model, scale = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), torch.rand(8)
    prune.ln_structured(model[2], "weight", 0.5, n=2, dim=1)
    model[1].register_forward_hook(lambda module, inputs, output: output * scale)
    small = compact(model, torch.randn(5, 6))
    assert small[0].out_features == 8 and small.report.difference < 1e-12


class Attribute(nn.Module):
    "A tensor that is neither parameter nor buffer"

    def __init__(self):
        super().__init__()
        self.a, self.b, self.scale = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 3), torch.rand(1, 8, 1, 1)

    def forward(self, x):
        return self.b(F.relu(self.a(x)) * self.scale)


def test_a_plain_tensor_as_an_attribute():
    model, x = masked(Attribute(), "b"), torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(compact(model, x)(x), model(x))


# --- what is found without running the network: shapes, and what is counted


class Everywhere(nn.Module):
    "Operations that treat each input by itself, and the same operations across inputs"

    def __init__(self):
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ConvTranspose2d(4, 4, 2, 2)
        self.pool, self.norm, self.pad = nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ZeroPad2d(1)
        self.last, self.scale = nn.Linear(4, 5), nn.Parameter(torch.ones(2, 1, 1, 1))

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        rows = self.pad(x[:, 0, 0])  # pads the axis of the batch as well
        x = torch.cat([x, self.up(self.pool(x)) > 0], dim=1)
        x = torch.cat([x, x.abs_(), torch.maximum(x, x * self.scale)])  # along the batch
        x = F.pad(x, [0, 1, 0, 0, 0, 0, 1, 0]) + F.interpolate(x, scale_factor=2)[:1, :, :4, :5].double()
        best, where = F.max_pool2d(x, 2, return_indices=True)
        flat = self.last(torch.where(best > 0, best, -best).mean(3).transpose(1, 2)[..., :4])
        return flat, where, self.conv(x[0, :3]), torch.nn.functional.softplus(flat[0, 0]), rows


def test_shapes_and_types_are_those_of_a_run():
    for network, size in ((Everywhere(), 8), (torchvision.models.googlenet(init_weights=False), 64)):
        x = torch.randn(2, 3, size, size).double()
        graph = channel_graph(network.double(), x).graph
        found = {node.name: node.meta.get("tensor_meta") for node in graph.nodes}

        class Comparing(fx.Interpreter):
            def run_node(self, n, expected=found):
                result = super().run_node(n)
                if isinstance(result, torch.Tensor) and n.op != "output":
                    assert (expected[n.name].shape, expected[n.name].dtype) == (result.shape, result.dtype), n
                return result

        with torch.no_grad():
            Comparing(fx.GraphModule(network, graph)).run(x)


# --- the transformers of PyTorch


class Causal(nn.Module):
    "A language model: tokens before the transformer, a mask among its buffers"

    def __init__(self, layers):
        super().__init__()
        self.encoder, self.end = nn.TransformerEncoder(layers, 2, enable_nested_tensor=False), nn.Linear(8, 3)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(5))

    def forward(self, x):
        return self.end(self.encoder(x, self.mask))


class Padded(Causal):
    "Its batches are padded at the end"

    def __init__(self, layers):
        super().__init__(layers)
        self.encoder = nn.TransformerEncoder(layers, 2)

    def forward(self, x):
        padding = torch.arange(5) > 3
        return self.end(self.encoder(x, src_key_padding_mask=padding.expand(len(x), 5))[:, :3])


class Translating(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.both, self.end = nn.Transformer(8, 2, 1, 1, 24, dropout=0.0, batch_first=True, **settings), nn.Linear(8, 3)

    def forward(self, x):
        return self.end(self.both(x, x.flip(1)))


class Decoding(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.end = layer, nn.Linear(8, 3)

    def forward(self, x):
        return self.end(self.layer(x, x.flip(0)))


class OwnEncoderLayer(nn.TransformerEncoderLayer): ...


def encoder(kind=nn.TransformerEncoderLayer, **settings):
    return kind(8, 2, 24, **{"dropout": 0.0, "batch_first": True} | settings)


TRANSFORMERS = {
    "relu": lambda: nn.TransformerEncoder(encoder(), 2),
    "gelu, norm first": lambda: nn.TransformerEncoder(encoder(activation="gelu", norm_first=True), 2, nn.LayerNorm(8)),
    "sequence first": lambda: nn.Sequential(nn.Linear(8, 8), encoder(batch_first=False), nn.Linear(8, 3)),
    "without bias": lambda: nn.Sequential(nn.Linear(8, 8), encoder(bias=False), nn.Linear(8, 3)),
    "sigmoid, without bias": lambda: nn.Sequential(encoder(bias=False, activation=torch.sigmoid), nn.Linear(8, 3)),
    "own class": lambda: nn.Sequential(encoder(OwnEncoderLayer), nn.Linear(8, 3)),
    "causal": lambda: Causal(encoder()),
    "padded": lambda: Padded(encoder()),
    "decoding": lambda: Decoding(nn.TransformerDecoderLayer(8, 2, 24, dropout=0.0, activation=nn.SiLU())),
    "translating": Translating,
    "translating, norm first": lambda: Translating(norm_first=True, activation=nn.SiLU()),
}


@pytest.mark.filterwarnings("ignore:.*nested")
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_hidden_units_of_the_transformers_of_pytorch(name, dim, tmp_path):
    "Half of them go; what is left is the same class, in evaluation (fused) and in training"
    torch.manual_seed(1)
    model, x = TRANSFORMERS[name]().double(), torch.randn(4, 5, 8).double()
    blocks = [part for part in model.modules() if hasattr(part, "linear1")]
    for i, block in enumerate(blocks):
        for norm in (part for part in block.modules() if isinstance(part, nn.LayerNorm) and part.bias is not None):
            nn.init.normal_(norm.bias)
        prune.random_structured(block.linear2 if dim else block.linear1, "weight", 0.5 + i / 4, dim=dim)
    small = compact(model, x, atol=1e-10)
    found = [part for part in small.modules() if type(part) in {type(block) for block in blocks}]
    carried = name.startswith("sigmoid") and dim == 0  # without a bias, one of the constants carries all of them
    widths = [12 + carried, 6][: len(blocks)]
    assert [block.linear1.out_features for block in found] == [block.linear2.in_features for block in found] == widths
    for training in (False, True):
        with torch.no_grad():
            expected, answer = (network.train(training)(x) for network in (model, small))
        torch.testing.assert_close(answer, expected, rtol=1e-9, atol=1e-9)
    if not any(isinstance(part, nn.Transformer) for part in model.modules()):
        save_network(small.eval(), tmp_path / "small.safetensors", example_input=x)
        loaded = load_network(tmp_path / "small.safetensors")
        torch.testing.assert_close(loaded(x), small(x), rtol=1e-9, atol=1e-9)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    restore(small, model)
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[key])


def test_a_transformer_that_cannot_be_looked_into_is_left_as_it_is():
    def moody(x):
        return x.relu() if x.mean() > 0 else x.tanh()

    layers = nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8), encoder(activation=moody), encoder(), nn.Linear(8, 2)
    model = nn.Sequential(*layers)
    for name in ("2", "3.linear2", "4.linear2"):
        prune.ln_structured(model.get_submodule(name), "weight", 0.5, n=2, dim=1)
    small = check(model.eval(), torch.randn(4, 5, 8))
    assert [small[0].out_features, small[3].linear1.out_features, small[4].linear1.out_features] == [3, 24, 12]


def test_a_transformer_used_twice_stays_as_it_is():
    block = encoder()
    prune.ln_structured(block.linear2, "weight", 0.5, n=2, dim=1)
    small = compact(nn.Sequential(block, nn.Linear(8, 8), block, nn.Linear(8, 2)).eval(), torch.randn(4, 5, 8))
    assert small[0].linear1.out_features == 24 and small[0] is small[2]


def test_macs_are_half_of_the_flops_that_torch_counts():
    parts = nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(6, 8, 2), nn.Flatten(2), nn.Linear(49, 16)
    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    for model in (nn.Sequential(*parts), nn.Sequential(*parts, encoder)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(torch.zeros(2, 4, 8, 8))
        assert 2 * count_macs(model, (2, 4, 8, 8)) == counter.get_total_flops() > 0
