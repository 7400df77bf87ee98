"""Training objectives beyond cross-entropy for PyTorch Lightning."""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Objective": "objective",
    "Term": "objective",
    "debug": "numerics.checks",
    "gather_batch": "distributed",
    "chunked_head": "kernels.chunked_head",
    "choose_implementation": "kernels.choice",
    "linear_cross_entropy": "kernels.linear_cross_entropy",
    "linear_distillation": "kernels.linear_distillation",
    "linear_stablemax_cross_entropy": "kernels.linear_stablemax_cross_entropy",
    "vocab_parallel_cross_entropy": "kernels.vocab_parallel",
    "DistillationMixin": "mixins",
    "LanguageHeadMixin": "mixins",
    "ObjectiveMixin": "mixins",
    "OnlineDistillationMixin": "mixins",
    "SelfDistillationMixin": "mixins",
}


def __getattr__(name: str) -> Any:
    # Lazily, so that losses alone load neither Lightning nor torchmetrics.
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    if name[:1].isupper() or name.endswith("_loss"):
        return getattr(importlib.import_module(f"{__name__}.losses"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *importlib.import_module(f"{__name__}.losses").index()])
