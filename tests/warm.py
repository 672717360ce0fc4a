"""
What every test process needs, loaded once: `python tests/warm.py [NOTEBOOK]` is `nbdev-test` with workers that inherit
it. Imports would cost each of them four seconds, and each export to ONNX more than one.
"""

import sys
from functools import cache
from io import BytesIO


def keep_onnx_operations() -> None:
    "PyTorch reads its table of 500 ONNX operations from their source anew for each export: once is enough"
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))
    except (ImportError, AttributeError):  # another PyTorch: it takes longer
        pass


def load() -> None:
    "The modules that most chapters import, and all that a first export loads"
    import torch

    import pneumoprune.report  # noqa: F401

    keep_onnx_operations()
    torch.onnx.export(torch.nn.Linear(1, 1).eval(), (torch.zeros(1, 1),), BytesIO(), dynamo=True, verbose=False)


if __name__ == "__main__":
    from nbdev.test import nbdev_test

    load()
    nbdev_test(*sys.argv[1:], n_workers=2, timing=True)
