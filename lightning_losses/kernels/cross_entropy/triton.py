"""The options of the Triton kernels; the kernels are imported when they run, because importing takes a second."""

import os

import torch

from lightning_losses.kernels.cross_entropy.peers import installed
from lightning_losses.kernels.cross_entropy.problem import (
    Implementation,
    LinearCrossEntropyValue,
    Problem,
    of_sums,
    refuse_tiles,
)
from lightning_losses.kernels.cross_entropy.rows import by_rows


def runs_on(device: torch.device) -> bool:
    """Whether Triton's kernels run on a device, if installed: on CUDA, or elsewhere interpreted."""
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


class Triton(Implementation):
    """Products by the GPU's library, and one kernel that works in place on each chunk's logits."""

    name = "triton"
    products, memory = "3, or 4 per row", "a chunk of tokens x V"
    purpose = "CUDA: everything but filtering"

    def refuses(self, problem: Problem) -> str | None:
        """Refuses filtering, tiles of the vocabulary, and other devices."""
        if problem.filter_eps is not None:
            return "filter_eps came with impl='triton', which makes every gradient entry; use 'recompute'."
        if refusal := refuse_tiles(self.name, problem):
            return refusal
        if not installed("triton"):
            return "impl='triton' needs the package triton, which is not installed; use 'chunked'."
        if not runs_on(problem.weight.device):
            return (
                f"impl='triton' needs a CUDA device, and weight is on {problem.weight.device.type}; "
                "use impl='chunked', or set TRITON_INTERPRET=1 before Python starts."
            )
        return None

    def merit(self, problem: Problem) -> str | None:
        """It is the fastest on a GPU."""
        if problem.weight.device.type != "cuda":
            return None
        return "on CUDA its kernel leaves little but the products"

    def evaluate(self, problem: Problem) -> LinearCrossEntropyValue:
        """Computes gradients in the forward pass, or in the backward pass if each row has its own."""
        from lightning_losses.kernels.cross_entropy.triton_walk import TritonRows, sums_and_gradients

        if not problem.per_row:
            return of_sums(sums_and_gradients, self.name, problem)
        return by_rows(problem, TritonRows(problem.without_operands()), self.name)


TRITON = Triton()
