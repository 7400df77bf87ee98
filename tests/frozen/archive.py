"""A file for each loss: its cases and their outcomes, as numbers and as text, without pickle."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tests.frozen.outcomes import Case, Outcome

FOLDER = Path(__file__).with_name("values")


class Frozen(NamedTuple):
    """A case and what came of it when it was frozen."""

    case: Case
    outcome: Outcome


def frozen_losses() -> list[str]:
    """The class names of the losses that are frozen."""
    return sorted(file.stem for file in FOLDER.glob("*.npz"))


def read(name: str) -> list[Frozen]:
    """The frozen cases of a loss."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        numbers, text = torch.from_numpy(file["numbers"]), json.loads(file["text"].tobytes())
    tensors, begin = [], 0
    for dtype, shape in text["tensors"]:
        end = begin + torch.Size(shape).numel()
        tensors.append(numbers[begin:end].view(shape).to(getattr(torch, dtype), copy=True))
        begin = end
    return [Frozen(Case(**_decoded(case, tensors)), _decoded(came, tensors)) for case, came in text["cases"]]


def write(name: str, cases: list[Frozen]) -> Path:
    """Write the cases of a loss; equal tensors are stored once."""
    places: dict[tuple[Any, ...], int] = {}
    tensors: list[Tensor] = []
    coded = [_encoded([frozen.case._asdict(), frozen.outcome], places, tensors) for frozen in cases]
    text = {"tensors": [[str(t.dtype).removeprefix("torch."), list(t.shape)] for t in tensors], "cases": coded}
    FOLDER.mkdir(exist_ok=True)
    file = FOLDER / f"{name}.npz"
    np.savez_compressed(
        file,
        numbers=torch.cat([tensor.double().flatten() for tensor in tensors]).numpy(),
        text=np.frombuffer(json.dumps(text).encode(), dtype=np.uint8),
    )
    return file


def _encoded(value: Any, places: dict[tuple[Any, ...], int], tensors: list[Tensor]) -> Any:
    if isinstance(value, Tensor):
        # Contents by their bytes, so that NaN and the sign of 0 are kept.
        key = (value.dtype, value.shape, value.detach().numpy().tobytes())
        if key not in places:
            places[key] = len(tensors)
            tensors.append(value.detach())
        return {"tensor": places[key]}
    if isinstance(value, dict):
        return {key: _encoded(part, places, tensors) for key, part in value.items()}
    return [_encoded(part, places, tensors) for part in value] if isinstance(value, (list, tuple)) else value


def _decoded(value: Any, tensors: list[Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"tensor"}:
            return tensors[value["tensor"]]
        return {key: _decoded(part, tensors) for key, part in value.items()}
    return [_decoded(part, tensors) for part in value] if isinstance(value, list) else value
