"Small changes of the code that other tests did not notice: each of these fails where its change is made"

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from pneumoprune import benchmark, compaction, evaluation, graph, pruning, slimming
from pneumoprune.alexnet import narrow_alexnet

REFERENCE = Path(__file__).resolve().parents[1] / "results/reference"


def same_answers(gap: float) -> tuple[list, list]:
    "Answers of two networks that differ by so much"
    answer = [{"": torch.ones(2, 2, dtype=torch.float64)}]
    return answer, [{"": torch.ones(2, 2, dtype=torch.float64) + gap}]


@pytest.mark.parametrize("double, native", [(1e-3, 0.0), (0.0, 0.9)])
def test_a_proof_needs_both_precisions(double, native):
    "`or` for `and` in what is accepted"
    compaction._prove(same_answers(0.0), same_answers(0.0), torch.float32, 1e-5)
    with pytest.raises(compaction.CompactionError, match="differ"):
        compaction._prove(same_answers(double), same_answers(native), torch.float32, 1e-5)


@pytest.mark.parametrize("kernel, dilation", [(3, 1), (5, 2), (4, 1)])
def test_padding_by_name(kernel, dilation):
    "`padding='same'` is a padding of zeros of another width"
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, kernel, padding="same", dilation=dilation), nn.Flatten()
    ).eval()
    prune.ln_structured(net[2], "weight", 0.5, n=2, dim=1)
    example = torch.randn(3, 1, 12, 12)
    small = compaction.compact(net, example)
    assert torch.allclose(net(example), small(example), atol=1e-6) and small[0].out_channels == 3


def test_the_whole_set_is_timed():
    "The number of images in the time for all of them"
    seen = []
    predictor = benchmark.Predictor("original", "pytorch", lambda threads: lambda images: seen.append(len(images)))
    table = benchmark.inference_seconds([predictor], np.zeros((70, 1, 8, 8), np.uint8), batch=32, repeats=1)
    assert seen[-3:] == [32, 32, 6]
    each = table["seconds"] / table["milliseconds_per_image"] * 1000
    assert each.round(6).tolist() == [70] * len(table)


@pytest.mark.parametrize("positive, negative", [(2, 3), (3, 2), (2, 2), (5, 2)])
def test_delong_with_tiny_classes(positive, negative):
    "Variances divide by one less than the number of images: with two of a class, that is half of everything"
    rng = np.random.default_rng(positive)
    labels = np.repeat([1, 0], [positive, negative])
    scores = rng.random((2, len(labels)))
    wins = [np.subtract.outer(s[labels == 1], s[labels == 0]) > 0 for s in scores]
    gain = wins[1].astype(float) - wins[0]
    variance = gain.mean(1).var(ddof=1) / positive + gain.mean(0).var(ddof=1) / negative
    expected = 2 * stats.norm.sf(abs(gain.mean()) / variance**0.5) if variance else float(gain.mean() == 0)
    assert evaluation._delong_p(labels, *scores) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 1, 1], [0, 1]])
def test_delong_with_one_image_of_a_class_shows_nothing(labels):
    labels = np.array(labels)
    assert evaluation._delong_p(labels, labels * 0.5, 1 - labels * 0.5) == 1.0


@pytest.mark.parametrize("resamples", [1, 2, 255, 256, 257, 600])
def test_there_are_as_many_resamples_as_were_asked_for(resamples):
    "The last one included, and none twice"
    labels = np.tile([0, 1], 30)
    blocks = list(evaluation._resampled_weights(labels, np.arange(60), resamples, seed=0))
    drawn = np.concatenate(blocks)
    assert drawn.shape == (resamples, 60) and (drawn.sum(1) == 60).all()
    assert len(np.unique(drawn, axis=0)) == resamples


@pytest.mark.parametrize("rounds", [1, 2])
def test_pruning_in_one_round_is_the_recipe_once(rounds):
    net = narrow_alexnet((8,) * 5, (16, 16), seed=0)
    tuned = []
    path = pruning.prune_iteratively(net, lambda model, number: tuned.append(number), rounds=rounds)
    assert tuned == list(range(1, rounds + 1)) and path["round"].unique().tolist() == tuned
    once = narrow_alexnet((8,) * 5, (16, 16), seed=0)
    pruning.apply_recipe(once)
    masks, found = (
        {name: mask for name, mask in network.named_buffers() if name.endswith("_mask")} for network in (once, net)
    )
    assert masks and masks.keys() == found.keys()
    assert all((found[name] <= mask).all() for name, mask in masks.items())  # what the first round masks stays masked
    assert all(torch.equal(found[name], mask) for name, mask in masks.items()) == (rounds == 1)


def test_networks_that_never_disagree_show_no_difference():
    right = np.array([True, False, True])
    assert evaluation._mcnemar(right, right) == {"only_reference_right": 0, "only_candidate_right": 0, "p": 1.0}


@pytest.mark.parametrize("like", [torch.arange(4), torch.tensor(2.5), torch.ones(3, dtype=torch.bool)])
def test_what_is_no_batch_of_numbers_is_no_noise(like):
    assert torch.equal(compaction._noise(like, 0, torch.Generator().manual_seed(0)), like)


def test_slimming_is_set_as_in_the_reference_run():
    "A budget, seeds and the machine are a run's own; how long the last training is was chosen after it"
    recorded = json.loads((REFERENCE / "run.json").read_text(encoding="utf-8"))["settings"]["slim"]
    mine = json.loads(json.dumps(asdict(slimming.SlimSettings(max_macs=recorded["max_macs"]))))
    recorded["final"]["epochs"] = 30
    for part in ("train", "final"):
        mine[part] = {name: value for name, value in mine[part].items() if name in recorded[part]}
    assert mine == recorded


def test_the_mean_importance_of_a_layer_is_one():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)).eval()
    groups = slimming.channel_groups(net, torch.zeros(1, 1, 9, 9))
    for criterion in ("l1", "l2"):
        scores = slimming.score_channels(net, groups, criterion)
        raw = [slimming.CRITERIA[criterion](net, group, np.random.default_rng(0)).numpy() for group in groups]
        for score, own in zip(scores, raw):
            assert score.mean() == pytest.approx(1) and np.allclose(score * own.mean(), own)


@pytest.mark.parametrize(
    "aucs, sizes, met, rounds, chosen, told",
    [
        ([0.95, 0.9451, 0.9449, 1], [9, 8, 7, 6], [], 3, 1, 3),  # within 0.005, then beyond
        ([0.95, 0.95, 0.95, 0.95], [9, 8, 7, 6], [], 2, 2, 3),  # as many rounds as are allowed
        ([0.95, 0.95, 0.95, 0.95], [9, 8, 8, 6], [], 3, 2, 3),  # nothing more goes
        ([0.95, 0.6, 0.5, 0.5], [9, 8, 7, 6], [[False], [False], [True], [True]], 3, 2, 3),  # a budget decides alone
        ([0.95, 0.6, 0.5, 0.5], [9, 8, 7, 6], [[False, True], [False, True], [True, False], [True, True]], 3, 3, 4),
    ],
)
def test_where_slimming_stops(aucs, sizes, met, rounds, chosen, told, monkeypatch):
    row = lambda number, *_: {"val_auc": aucs[number], "parameters": sizes[number]}
    monkeypatch.setattr(slimming, "_row", row)
    monkeypatch.setattr(slimming, "_round", lambda network, xrays, settings, number, *_: (number, 1.0))
    monkeypatch.setattr(slimming, "_budgets_met", lambda settings, model, current, size: met and met[current])
    monkeypatch.setattr(slimming, "shift_suite", lambda *_, **__: {})
    monkeypatch.setattr(slimming, "time", SimpleNamespace(perf_counter=lambda: 7.0))  # the rest takes no time
    xrays = SimpleNamespace(part=lambda _: None, size=64)
    settings = slimming.SlimSettings(rounds=rounds)
    network, rows = slimming._shrink(0, xrays, settings, None, None, None)
    assert network == chosen and len(rows) == told
    assert rows["seconds"].tolist() == [0.0] + [1.0] * (told - 1)


def test_what_channels_are_worth():
    "Importance in shares of the layer's, per root of cost"
    ranked = list(slimming._blocks(np.array([1.0, 2, 3, 4, 10]), 4.0, 0.2, 1, 1))
    assert [channels for _, channels in ranked] == [[0], [1], [2], [3]]
    assert [rank for rank, _ in ranked] == pytest.approx([1 / 40, 2 / 40, 3 / 40, 4 / 40])


def test_how_many_channels_go():
    "Two at a time, each a tenth of the costs, until half of them is saved"
    (removed,) = slimming.weakest([np.arange(1.0, 21)], [0.1], keep=0.5, floor=0.1, minimum=1, block=2)
    assert removed.tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(slimming.PneumopruneError, match="keep=1"):
        slimming.weakest([np.arange(1.0, 21)], [0.1], keep=1)


def test_where_rounds_are_kept():
    assert slimming._checkpoints("run", "slim-1") == Path("run/checkpoints/slim-1")
    assert slimming._checkpoints(None, "slim-1") is None


def test_a_cubic_schedule():
    assert pruning.schedule("cubic", 2, 0.8) == pytest.approx([0.7, 0.8])


def test_most_of_a_layer_goes():
    "The report counts what went"
    net = nn.Sequential(nn.Conv2d(1, 10, 3), nn.ReLU(), nn.Conv2d(10, 2, 3)).eval()
    prune.ln_structured(net[0], "weight", 0.7, n=2, dim=0)
    report = compaction.compact(net, torch.randn(2, 1, 9, 9)).report
    assert "7 of 12 channels went; 2 of 2 layers are narrower" in str(report)


def test_noise_of_ten_times_the_size_has_both_signs():
    rows = compaction._noise(torch.zeros(6, 500), 0, torch.Generator().manual_seed(0))
    assert rows[3].min() < -20 and rows[3].max() > 20


def test_the_widths_of_a_module():
    assert compaction._layer_row(nn.PReLU(5)) == ("PReLU", 5, 5, 5)
    assert compaction._layer_row(nn.BatchNorm2d(4)) == ("BatchNorm2d", 4, 4, 8)


def test_the_smallest_images_and_all_rings():
    rng = np.random.default_rng(0)
    found = evaluation.texture_features(rng.integers(0, 256, (2, 32, 32), dtype=np.uint8), rings=4)
    assert found.shape == (2, 4) and np.isfinite(found).all()


def test_what_shortcuts_cannot_learn_from():
    labels, features = np.tile([0, 1], 10), np.arange(20.0)[:, None]
    with pytest.raises(evaluation.EvaluationError, match="seed"):
        evaluation.shortcut_scores(features, labels, np.arange(20), folds=2, seed=-1)
    with pytest.raises(evaluation.EvaluationError, match="learned is datetime64"):
        evaluation.shortcut_scores(features, labels, np.arange(20), learned=np.zeros(20, "M8[s]"), folds=2)


def test_who_stands_in_a_misled_pair():
    "A positive below the highest negative, a negative above the lowest positive"
    labels, misleading = np.array([1, 1, 1, 0, 0]), np.array([0.1, 0.6, 0.9, 0.2, 0.5])
    assert evaluation._involved(labels, misleading).tolist() == [True, False, False, True, True]
    assert evaluation._involved(labels, misleading[[2, 1, 1, 0, 3]]).tolist() == [False, False, False, False, False]


class Called(nn.Module):
    "Two layers, and what a function makes of the first one's answer"

    def __init__(self, first: nn.Module, between, second: nn.Module):
        super().__init__()
        self.first, self.between, self.second = first, between, second

    def forward(self, x):
        return self.second(self.between(self.first(x)))


def conv(inputs: int, outputs: int, **more) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, **more)


CUT = {
    "norm of each image": lambda: [conv(1, 6), nn.InstanceNorm2d(6, affine=True), nn.ReLU(), conv(6, 2)],
    "valid": lambda: [conv(1, 6), nn.ReLU(), conv(6, 2, padding="valid")],
}


@pytest.mark.parametrize("name", CUT)
def test_constants_go(name):
    "Half of the first layer's channels hold constants, which the second takes over"
    torch.manual_seed(0)
    net = nn.Sequential(*CUT[name]()).eval()
    prune.ln_structured(net[0], "weight", 0.5, n=2, dim=0)
    nn.init.constant_(net[0].bias, 0.5)
    example = torch.randn(3, 1, 12, 12)
    small = compaction.compact(net, example)
    assert torch.allclose(net(example), small(example), atol=1e-5) and small[0].out_channels == 3


def test_constants_go_through_norms_of_each_series():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(1, 6, 3), nn.InstanceNorm1d(6, affine=True), nn.ReLU(), nn.Conv1d(6, 2, 3)).eval()
    prune.ln_structured(net[0], "weight", 0.5, n=2, dim=0)
    example = torch.randn(3, 1, 12)
    small = compaction.compact(net, example)
    assert torch.allclose(net(example), small(example), atol=1e-5) and small[0].out_channels == 3


def unread(layer: nn.Module, channels: list[int]) -> None:
    "A mask on inputs of a layer"
    mask = torch.ones_like(layer.weight)
    mask[:, channels] = 0
    prune.custom_from_mask(layer, "weight", mask)


def same_but_narrower(net: nn.Module, example: torch.Tensor, width: int) -> nn.Module:
    small = compaction.compact(net.eval(), example)
    assert torch.allclose(net(example), small(example), atol=1e-5)
    assert len(small.get_parameter("first.weight")) == width
    return small


def test_a_slice_is_cut():
    net = Called(conv(1, 8), lambda y: y[:, 2:6], conv(4, 2))
    unread(net.second, [1])
    same_but_narrower(net, torch.randn(3, 1, 9, 9), 3)


def test_a_number_of_axes_is_known():
    net = Called(conv(1, 8), lambda y: y * len(y.shape), conv(8, 2))
    unread(net.second, [1])
    same_but_narrower(net, torch.randn(3, 1, 9, 9), 7)


def test_gates_are_cut_along_the_last_axis():
    "Both halves of a gated channel go together"
    net = Called(nn.Linear(6, 8), F.glu, nn.Linear(4, 2))
    unread(net.second, [0, 2])
    same_but_narrower(net, torch.randn(3, 5, 6), 4)


def test_whole_groups_of_a_norm_go():
    net = Called(conv(1, 8), nn.GroupNorm(4, 8), conv(8, 2))
    unread(net.second, [2, 3])
    small = same_but_narrower(net, torch.randn(3, 1, 9, 9), 6)
    assert small.get_submodule("between").num_groups == 3


def test_batch_norm_is_passed_by_where_only_shapes_matter():
    root = nn.Sequential(nn.BatchNorm2d(3))
    (node,) = [node for node in torch.fx.symbolic_trace(root).graph.nodes if node.op == "call_module"]
    x = torch.zeros(1, 3, 2, 2)
    assert graph._call(node, root, (x,), {}) is x


def test_parts_of_other_sizes_are_cut():
    "Of two parts only the first is read, and of that not all"
    net = Called(conv(1, 8), lambda y: y.split([3, 5], 1)[0], conv(3, 2))
    unread(net.second, [1])
    same_but_narrower(net, torch.randn(3, 1, 9, 9), 2)


def test_axes_made_of_channels_are_cut():
    "Two rows of four: the second of each goes"
    net = Called(conv(1, 8), lambda y: y.unflatten(1, (2, 4)).flatten(1, 2), conv(8, 2))
    unread(net.second, [1, 5])
    same_but_narrower(net, torch.randn(3, 1, 9, 9), 6)


@pytest.mark.parametrize("part", [
    lambda y: y.narrow(2, 1, 5), lambda y: y.narrow(-1, 0, 5), lambda y: y.select(dim=3, index=0).unsqueeze(3),
])  # fmt: skip
def test_some_of_the_positions(part):
    net = Called(conv(1, 8), part, conv(8, 2, padding=1))
    unread(net.second, [1])
    same_but_narrower(net, torch.randn(3, 1, 9, 9), 7)


def test_what_is_pooled_across_channels_stays_whole():
    "Two axes of maps (N, C, L), the first of which counts channels"
    net = Called(nn.Conv1d(1, 8, 3), nn.MaxPool2d((3, 1), 1, (1, 0)), nn.Conv1d(8, 2, 3))
    unread(net.second, [1])
    same_but_narrower(net, torch.randn(3, 1, 9), 8)


def test_constants_beside_a_map_of_positions_are_none():
    "What is added is another number at every place"

    class Placed(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("map", torch.linspace(0, 1, 49).view(1, 1, 7, 7))

        def forward(self, y):
            return y + self.map

    net = Called(conv(1, 6), Placed(), conv(6, 2)).eval()
    prune.ln_structured(net.first, "weight", 0.5, n=2, dim=0)
    example = torch.randn(3, 1, 9, 9)
    small = compaction.compact(net, example)
    assert torch.allclose(net(example), small(example), atol=1e-5)


def test_three_masked_modules_are_named():
    net = nn.Sequential(*[conv(4, 4) for _ in range(4)]).eval()
    for layer in net:
        prune.random_unstructured(layer, "weight", 0.5)
    small = compaction.compact(net, torch.randn(2, 4, 12, 12))
    for layer in small:
        nn.init.constant_(layer.weight, 0.3)
    with pytest.raises(compaction.CompactionError, match="weights of 0, 1, 2 that masks hold at zero"):
        compaction.restore(small, net)


@pytest.mark.parametrize("frequency, ring", [(0.15, 0), (0.25, 1), (0.35, 2), (0.45, 3)])
def test_a_wave_is_in_its_ring(frequency, ring):
    "Four rings of equal width between 0.125 and 0.5 cycles per pixel"
    wave = 100 + 80 * np.sin(2 * np.pi * frequency * np.arange(64))
    image = np.broadcast_to(wave, (1, 64, 64)).astype(np.uint8)
    assert evaluation.texture_features(image, rings=4).argmax() == ring
