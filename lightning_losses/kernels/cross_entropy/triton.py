"""What the Triton kernels can be asked for; they themselves are imported when they run, since that costs a second."""

import torch

from lightning_losses.kernels.cross_entropy.peers import installed
from lightning_losses.kernels.cross_entropy.problem import (
    Implementation,
    LinearCrossEntropyValue,
    Problem,
    of_rows,
    of_sums,
    refuse_tiles,
)


class Triton(Implementation):
    """Products by cuBLAS with one kernel on each chunk's logits, or, for rows and filtering, no logits at all."""

    name = "triton"
    products, memory = "3, or 4 per row", "as `chunked`, or as `recompute`"
    purpose = "CUDA, by request"

    def refuses(self, problem: Problem) -> str | None:
        """Tiles of the vocabulary on the fast path, other devices, float64."""
        if not _by_rows(problem) and (refusal := refuse_tiles(self.name, problem)):
            return refusal
        if not installed("triton"):
            return "impl='triton' needs the package triton, which is not installed; use 'chunked'."
        from lightning_losses.kernels.cross_entropy.triton_walks import INTERPRETED

        if problem.weight.device.type != "cuda" and not INTERPRETED:
            return (
                f"impl='triton' needs a CUDA device, and weight is on {problem.weight.device.type}; "
                "use impl='chunked', or set TRITON_INTERPRET=1 before Python starts."
            )
        if problem.weight.dtype == torch.float64:
            return "impl='triton' computes in float32, and weight is float64; use impl='chunked'."
        return None

    def evaluate(self, problem: Problem) -> LinearCrossEntropyValue:
        """With or without a chunk's logits."""
        from lightning_losses.kernels.cross_entropy.triton_walks import TritonRows, sums_and_gradients

        if _by_rows(problem):
            hidden, weight, target, terms = problem[:4]
            rows = TritonRows.apply(hidden, weight, problem.bias, target, terms, problem.filter_eps)
            return of_rows(problem, *rows)
        return of_sums(sums_and_gradients, self.name, problem)


def _by_rows(problem: Problem) -> bool:
    return problem.per_row or problem.filter_eps is not None


TRITON = Triton()
