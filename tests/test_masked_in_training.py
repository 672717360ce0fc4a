"Public functions take a network that was just masked and run in training mode (for ONNX files: test_quantization.py)"

import copy

import pytest
import torch

from pneumoprune import alexnet, benchmark, compaction, graph, networks, pruning, slimming, training
from pneumoprune.lab import load_masked
from pneumoprune.synthetic import phantoms

pytestmark = pytest.mark.filterwarnings("ignore::pneumoprune.compaction.ProofWarning")
XRAYS = phantoms(60, 64)
IMAGES = torch.tensor(XRAYS.images[:4]).float()
ONCE = training.TrainSettings(epochs=1, batch_size=16, augment=0, progression=(), device="cpu", distillation=0.5)
FEW = slimming.SlimSettings(rounds=1, train=ONCE, final=ONCE)


def fresh():
    "Its weights are part of a graph, and `copy.deepcopy` refuses them"
    net = pruning.apply_recipe(alexnet.narrow_alexnet((8, 8, 8, 8, 8), (16, 16), seed=0))
    net.train()(IMAGES)
    return net


def plain():
    return alexnet.narrow_alexnet((8, 8, 8, 8, 8), (16, 16), seed=1)


CALLS = {
    "count_parameters": lambda net, folder: alexnet.count_parameters(net),
    "size_mb": lambda net, folder: alexnet.size_mb(net),
    "file_mb": lambda net, folder: alexnet.file_mb(net),
    "count_macs": lambda net, folder: alexnet.count_macs(net, (1, 1, 64, 64)),
    "copy_network": lambda net, folder: copy.deepcopy(alexnet.copy_network(net)),
    "fold_gray": lambda net, folder: alexnet.fold_gray(net),
    "torch_predictor": lambda net, folder: benchmark.torch_predictor("masked", net),
    "predict": lambda net, folder: training.predict(net, XRAYS),
    "save_weights": lambda net, folder: (training.save_weights(net, folder / "w.safetensors"),
                                         load_masked(folder / "w.safetensors")),
    "fit": lambda net, folder: training.fit(net, XRAYS, ONCE),
    "fit, as the teacher": lambda net, folder: training.fit(plain(), XRAYS, ONCE, teacher=net),
    "apply_recipe": lambda net, folder: pruning.apply_recipe(net),
    "sparsity_table": lambda net, folder: pruning.sparsity_table(net),
    "make_permanent": lambda net, folder: pruning.make_permanent(net),
    "sensitivity": lambda net, folder: pruning.sensitivity(net, XRAYS.part("val"), shares=[0.5]),
    "prune_iteratively": lambda net, folder: pruning.prune_iteratively(net, lambda model, number: None, rounds=1),
    "channel_groups": lambda net, folder: graph.channel_groups(net, IMAGES),
    "compact": lambda net, folder: compaction.compact(net, IMAGES),
    "save_network": lambda net, folder: networks.save_network(net, folder / "n.safetensors"),
    "slim": lambda net, folder: slimming.slim(net, XRAYS, FEW, teacher=plain()),
    "slim, as the teacher": lambda net, folder: slimming.slim(plain(), XRAYS, FEW, teacher=net),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_network_masked_and_run_in_training_mode(name, tmp_path):
    net = fresh()
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(net)
    assert CALLS[name](net, tmp_path) is not False
