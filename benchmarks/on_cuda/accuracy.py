"""Every entry's loss and gradients against float64, at a size of several chunks."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.on_cuda.measurement import Bench, Case, limited, reason
from benchmarks.on_cuda.operands import Size, operands, step

SIZE = Size(5120, 512, 8192, 768)
# Of the loss and of the gradients' norms: a few roundings of the dtype that they are kept in. In float16 the hidden
# states' gradient of a mean over these tokens is small, and rounding it alone costs 1.7e-3.
BOUNDS = {
    torch.float64: (1e-12, 1e-12),
    torch.float32: (1e-5, 1e-4),
    torch.bfloat16: (2e-4, 1e-2),
    torch.float16: (1e-4, 4e-3),
}
TF32_BOUND = (2e-4, 2e-3)


def check(case: Case, bench: Bench, size: Size, advance: Callable[[str], None]) -> list[dict[str, Any]]:
    """The relative errors of each entry that is to be checked."""
    torch.set_float32_matmul_precision("high" if case.tf32 else "highest")
    try:
        tensors = operands(size, case.dtype, bench.device, case.ignored)
        exact = tensors.exact()
        loss = step(case.exact, exact)
    except Exception as error:
        return [{"case": case.name, "name": "float64 itself", "dtype": str(case.dtype), "reason": reason(error)}]
    bounds = TF32_BOUND if case.tf32 else BOUNDS[case.dtype]
    rows = []
    for entry in case.entries:
        if not entry.checked:
            continue
        advance(f"against float64: {case.name}: {entry.name}")
        row: dict[str, Any] = {"case": case.name.rpartition(" ")[0] or case.name, "name": entry.name}
        row["dtype"] = str(case.dtype).removeprefix("torch.") + (" in TF32" if case.tf32 else "")
        if bench.out_of_time():
            rows.append(row | {"reason": "not run: the time was up"})
            continue
        try:
            with limited(bench.seconds()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = step(entry.forward, tensors)
                errors = [_error(value, loss), *map(_gradient_error, tensors[:2], exact[:2])]
        except Exception as error:
            row["reason"] = reason(error)
            tensors.hidden.grad = tensors.weight.grad = None
            bench.release()
        else:
            row |= dict(zip(("loss", "hidden", "weight"), errors, strict=True))
            row["within"] = errors[0] <= bounds[0] and max(errors[1:]) <= bounds[1]
        rows.append(row)
    return rows


def _error(value: Tensor, exact: Tensor) -> float:
    # A loss near 0 is measured against 1.
    return float((value.double() - exact).abs() / exact.abs().clamp(min=1))


def _gradient_error(leaf: Tensor, exact: Tensor) -> float:
    assert leaf.grad is not None and exact.grad is not None, "no gradient came"
    return float((leaf.grad.double() - exact.grad).norm() / exact.grad.norm())
