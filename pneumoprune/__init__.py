"""A lab report that proves its own numbers: AlexNet on chest X-rays, pruned, really made small, and compared.

`from pneumoprune import compact` is enough for most. A name is fetched from its module when it is first asked for, so that
`import pneumoprune` costs next to nothing.
"""
__version__ = "0.1.0"

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from types import ModuleType

_MODULES = {  # name -> the module it is fetched from
    "CompactionError": "channels",
    "PneumopruneError": "core",
    "compact": "compaction",
    "compare": "evaluation",
    "load_network": "networks",
    "load_run": "run",
    "predict_files": "prediction",
    "render_report": "report",
    "restore": "compaction",
    "run_lab": "lab",
    "save_network": "networks",
}

_EXTRAS = {  # module -> the smallest extra that brings what it imports
    "alexnet": "torch",
    "assessment": "report",
    "benchmark": "report",
    "cards": "report",
    "channels": "torch",
    "checkpoints": "torch",
    "compaction": "torch",
    "cut": "torch",
    "data": "report",
    "evaluation": "report",
    "figures": "report",
    "graph": "torch",
    "guard": "lab",
    "lab": "lab",
    "networks": "torch",
    "page": "page",
    "phrases": "report",
    "pruning": "lab",
    "quantization": "lab",
    "report": "report",
    "run": "report",
    "slimming": "lab",
    "synthetic": "report",
    "tables": "report",
    "training": "lab",
}

TYPE_CHECKING = False  # a type checker takes it for True, and reads the same table as imports
if TYPE_CHECKING:
    from .channels import CompactionError as CompactionError
    from .compaction import compact as compact
    from .compaction import restore as restore
    from .core import PneumopruneError as PneumopruneError
    from .evaluation import compare as compare
    from .lab import run_lab as run_lab
    from .networks import load_network as load_network
    from .networks import save_network as save_network
    from .prediction import predict_files as predict_files
    from .report import render_report as render_report
    from .run import load_run as load_run


class _Finder:
    "Finds our modules as Python does; what one of them misses is told with the extra that brings it"

    @staticmethod
    def find_spec(name: str, path=None, target=None):
        package, _, own = name.rpartition(".")
        found = PathFinder.find_spec(name, path) if package == __name__ and own in _EXTRAS else None
        if found is None or found.loader is None:
            return None
        execute = found.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            from .core import needs

            with needs(_EXTRAS[own], name):
                execute(module)

        found.loader.exec_module = exec_module
        return found


if not any(getattr(finder, "__module__", "") == __name__ for finder in sys.meta_path):  # once, if this is run again
    sys.meta_path.insert(0, _Finder)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
