"""Linear cross-entropy that stores the logits: for small heads, tests, and derivatives of any order."""

import torch

from lightning_losses.kernels.cross_entropy.problem import Implementation, LinearCrossEntropyValue, Problem, of_rows
from lightning_losses.kernels.terms import statistics_dtype

SMALL = 4 * 2**20
"""Bytes of float32 logits up to which storing them is simplest and as fast."""


class Reference(Implementation):
    """Autograd on logits in float32 (float64 for float64)."""

    name = "reference"
    products, memory = "3", "N V, several times"
    purpose = "small heads, tests, derivatives of any order"

    def refuses(self, problem: Problem) -> str | None:
        """Gradient filtering."""
        if problem.filter_eps is not None:
            return "filter_eps came with impl='reference', which is exact; use 'recompute'."
        return None

    def merit(self, problem: Problem) -> str | None:
        """The logits are small."""
        logits = len(problem.hidden) * len(problem.weight) * 4
        if logits > SMALL:
            return None
        return f"the logits take {logits} bytes in float32, which is little to hold (at most {SMALL // 2**20} MiB)"

    def evaluate(self, problem: Problem) -> LinearCrossEntropyValue:
        """By autograd."""
        terms, statistics = problem.terms, statistics_dtype(problem.weight)
        hidden = problem.hidden.to(statistics)
        if problem.kept is not None:
            # An ignored row may hold NaN; as zeros its share of the gradient is 0.
            hidden = torch.where(problem.kept.unsqueeze(1), hidden, 0.0)
        logits = hidden @ problem.weight.to(statistics).t()
        if problem.bias is not None:
            logits = logits + problem.bias.to(statistics)
        if terms.softcap is not None:
            logits = terms.softcap * (logits / terms.softcap).tanh()
        logits = logits / terms.temperature
        lse = logits.logsumexp(dim=1)
        picked = logits.gather(1, problem.target.unsqueeze(1)).squeeze(1)
        smooth = entropy = None
        if terms.label_smoothing:
            weights = terms.smoothing_weight()
            smooth = (
                logits.sum(dim=1) if weights is None else torch.where(weights == 0, 0.0, logits) @ weights.to(logits)
            )
        if problem.entropy:
            probabilities = logits.softmax(dim=1)
            # A class of probability 0 adds 0 to the entropy, even if its score is -inf.
            entropy = lse - (probabilities * logits.masked_fill(probabilities == 0, 0.0)).sum(dim=1)
        return of_rows(problem, lse, picked, smooth, entropy)


REFERENCE = Reference()
