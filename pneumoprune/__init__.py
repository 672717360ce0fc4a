"""A lab report that proves its own numbers: AlexNet on chest X-rays, pruned, really made small, and compared.

`from pneumoprune import compact` is enough for most. A name is fetched from its module when it is first asked for, so that
`import pneumoprune` costs next to nothing.
"""
__version__ = "0.1.0"

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
    "channels": "torch",
    "checkpoints": "torch",
    "compaction": "torch",
    "cut": "torch",
    "evaluation": "report",
    "graph": "torch",
    "lab": "lab",
    "networks": "torch",
    "report": "report",
    "run": "report",
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


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    from .core import needs

    module = _MODULES[name]
    with needs(_EXTRAS.get(module, ""), f"{__name__}.{name}"):
        return getattr(import_module(f".{module}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
