"""Runs golden cases: reads manifests, translates each case by the adapter of its method, compares.

A manifest is a list of cases: id, method, file (an npz beside the manifest), inputs, params, expected, rtol, atol.
An adapter maps the inputs and params of any case of its method to the expected names; it knows no case.
"""

import importlib
import json
import os
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tests.golden import adapters as adapter_modules
from tests.golden.adapter import Adapter

HERE = Path(__file__).parent
Outcome = Literal["passed", "failed", "not built"]


@dataclass(frozen=True)
class Case:
    """One golden case, as its manifest states it."""

    id: str
    method: str
    file: Path
    inputs: tuple[str, ...]
    params: dict[str, Any]
    expected: tuple[str, ...]
    rtol: float
    atol: float


@dataclass(frozen=True)
class Result:
    """How a case went; the errors are the largest relative ones over values and over gradients."""

    case: Case
    outcome: Outcome
    value_error: float | None = None
    gradient_error: float | None = None
    detail: str = ""

    def line(self) -> str:
        """One line of the report."""
        errors = [
            f"{name} {error:.1e}"
            for name, error in [("values", self.value_error), ("gradients", self.gradient_error)]
            if error is not None
        ]
        parts = [f"{self.case.id:<44} {self.outcome:<9}", ", ".join(errors), self.detail]
        return "  ".join(part for part in parts if part).rstrip()


def golden_folder() -> Path:
    """The folder that `GOLDEN_DIR` names, or the suite's own."""
    return Path(os.environ.get("GOLDEN_DIR", HERE))


def load_cases(folder: Path) -> list[Case]:
    """The cases of every manifest under a folder."""
    manifests = sorted(folder.rglob("manifest.json"))
    if not manifests:
        raise FileNotFoundError(f"no manifest.json under {folder}")
    return [_case(entry, manifest.parent) for manifest in manifests for entry in json.loads(manifest.read_text())]


def _case(entry: Mapping[str, Any], folder: Path) -> Case:
    return Case(
        id=entry["id"],
        method=entry["method"],
        file=folder / entry["file"],
        inputs=tuple(entry["inputs"]),
        params=dict(entry["params"]),
        expected=tuple(entry["expected"]),
        rtol=entry["rtol"],
        atol=entry["atol"],
    )


def load_adapters() -> dict[str, Adapter]:
    """Every adapter by method id, from the modules beside `adapters/__init__.py`."""
    found: dict[str, Adapter] = {}
    for info in pkgutil.iter_modules(adapter_modules.__path__):
        module = importlib.import_module(f"{adapter_modules.__name__}.{info.name}")
        for method, adapter in module.ADAPTERS.items():
            if method in found:
                raise ValueError(f"two modules adapt the method {method!r}; {info.name} is the second")
            found[method] = adapter
    return found


def run_case(case: Case, adapters: Mapping[str, Adapter]) -> Result:
    """Evaluate one case and compare every expected array."""
    if case.method not in adapters:
        return Result(case, "not built")
    try:
        with np.load(case.file, allow_pickle=False) as arrays:
            inputs = {name: torch.from_numpy(arrays[name].copy()) for name in case.inputs}
            expected = {name: arrays[name].copy() for name in case.expected}
        outputs = adapters[case.method](inputs, dict(case.params))
    except Exception as error:  # whatever an adapter raises is that case's failure, not the report's end
        return Result(case, "failed", detail=f"{type(error).__name__}: {error}")
    return _compare(case, expected, outputs)


def _compare(case: Case, expected: Mapping[str, np.ndarray], outputs: Mapping[str, Tensor]) -> Result:
    worst: dict[bool, float] = {}
    problems: list[str] = []
    for name, want in expected.items():
        if name not in outputs:
            problems.append(f"{name} is missing")
            continue
        got = torch.as_tensor(outputs[name]).detach().numpy()
        if got.shape != want.shape:
            problems.append(f"{name} has shape {got.shape}, not {want.shape}")
            continue
        is_gradient = name.startswith("grad")
        worst[is_gradient] = max(worst.get(is_gradient, 0.0), _relative_error(got, want))
        if not np.allclose(got, want, rtol=case.rtol, atol=case.atol, equal_nan=True):
            problems.append(f"{name} differs by {_relative_error(got, want):.1e}")
    outcome: Outcome = "failed" if problems or not expected else "passed"
    return Result(case, outcome, worst.get(False), worst.get(True), "; ".join(problems))


def _relative_error(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference, relative to the largest expected magnitude."""
    if want.size == 0:
        return 0.0
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    # Where both are inf, their difference is not a number.
    apart = np.subtract(got, want, where=~same, out=np.zeros(want.shape), dtype=np.float64, casting="unsafe")
    difference = np.abs(apart).max()
    scale = np.abs(want[np.isfinite(want)].astype(np.float64)).max(initial=0.0)
    return float(difference / scale) if scale > 0 else float(difference)


def run(cases: Iterable[Case]) -> list[Result]:
    """Run cases with the adapters there are."""
    adapters = load_adapters()
    return [run_case(case, adapters) for case in cases]
