"""Evidential classification: the network counts evidence for each class, and says when it has none."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.losses.kinds import RowLoss, index_rows
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import pick
from lightning_losses.numerics.settings import Share

Activation = Literal["relu", "softplus", "exp"]
# Beyond it e^logit would be evidence of more than 22,000 samples.
_MOST_LOGIT = 10.0


class EvidentialClassification(RowLoss):
    """Evidential classification: the network counts evidence for each class, and says when it has none.

    ``α = activation(logits) + 1`` are the parameters of a Dirichlet distribution over probabilities, ``S = sum_k α_k``,
    and ``C / S`` in (0, 1] the share of what is not known, the uncertainty. With t the one-hot target, a row's value is

    - mse: ``sum_k (t_k - α_k / S)² + α_k (S - α_k) / (S² (S + 1))``, the expected Brier score;
    - log: ``log S - log α_y``, the likelihood of the class;
    - digamma: ``ψ(S) - ψ(α_y)``, the expected cross-entropy, never less than log;

    and ``min(1, progress / annealing)`` times the divergence ``KL(Dir(t + (1 - t) α) || Dir(1))``, which takes back the
    evidence of wrong classes.

    Args:
        form: "mse", "log" or "digamma".
        activation: of logits to evidence: "relu", where a sample whose logits are all below 0 has no gradient;
            "softplus"; or "exp" of logits cut to ±10. A class masked by -inf has no evidence, or e^-10.
        annealing: the share of training during which the weight of the divergence rises from 0 to 1; at 0 it is 1.

    Shapes:
        logits: [..., C]; target: [...] class indices; progress: the fraction of training done, in [0, 1].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a progress outside [0, 1].

    Source:
        Sensoy, Kaplan, Kandemir, 2018, "Evidential Deep Learning to Quantify Classification Uncertainty",
        arXiv:1806.01768. The code dougbrion/pytorch-classification-uncertainty anneals over 10 epochs, from 0 in the
        first; aamini/evidential-deep-learning not at all. Here the trainer's progress takes the place of a count of
        epochs, so that a resumed run goes on. Evaluated in float64, where the device has it: log Γ of much evidence
        loses its digits in float32.

    Example:
        >>> import torch
        >>> loss = EvidentialClassification(form="log")
        >>> round(loss(torch.zeros(1, 4), torch.tensor([0]), progress=1.0).item(), 4)  # log 4, and no evidence
        1.3863
    """

    status = "paper"
    evidence = "dougbrion/pytorch-classification-uncertainty, not the authors' code"

    form: Literal["mse", "log", "digamma"] = "mse"
    activation: Activation = "relu"
    annealing: Share = 0.2

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        target: Int[Tensor, "*rows"],
        progress: float | Float[Tensor, ""],
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; the class documents what."""
        if not isinstance(progress, Tensor):
            check_number(self._identifier, "progress", progress, least=0, most=1)
        rows = index_rows(self._identifier, logits, target, self.ignore_index)
        wide = rows.logits if rows.logits.device.type == "mps" else rows.logits.double()
        alpha = _evidence(wide, self.activation) + 1
        value = self._data_term(alpha, rows.target)
        rising = 1.0 if self.annealing == 0 else progress / self.annealing
        share = rising.clamp(max=1.0) if isinstance(rising, Tensor) else min(rising, 1.0)
        wrong = alpha.scatter(-1, rows.target.unsqueeze(-1), 1.0)
        return reduce(
            (value + share * _divergence_from_uniform(wrong)).to(rows.logits.dtype), self.reduction, rows.kept
        )

    def _data_term(self, alpha: Float[Tensor, "*rows classes"], target: Int[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        total = alpha.sum(dim=-1)
        if self.form == "log":
            return total.log() - pick(alpha, target).log()
        if self.form == "digamma":
            return torch.digamma(total) - torch.digamma(pick(alpha, target))
        mean = alpha / total.unsqueeze(-1)
        error = torch.zeros_like(mean).scatter(-1, target.unsqueeze(-1), 1.0) - mean
        return error.square().sum(dim=-1) + (mean * (1 - mean)).sum(dim=-1) / (total + 1)


def dirichlet_vacuity(
    logits: Float[Tensor, "*rows classes"], activation: Activation = "relu"
) -> Float[Tensor, "*rows"]:
    """``C / S`` in (0, 1]: the share of what a network trained on evidence does not know.

    Example:
        >>> dirichlet_vacuity(torch.tensor([[0.0, 0.0], [6.0, -1.0]]))
        tensor([1.0000, 0.2500])
    """
    alpha = _evidence(full_precision(logits), activation) + 1
    return alpha.shape[-1] / alpha.sum(dim=-1)


def _evidence(logits: Float[Tensor, "*rows classes"], activation: Activation) -> Float[Tensor, "*rows classes"]:
    if activation == "exp":
        return logits.clamp(-_MOST_LOGIT, _MOST_LOGIT).exp()
    return F.relu(logits) if activation == "relu" else F.softplus(logits)


def _divergence_from_uniform(alpha: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows"]:
    """``KL(Dir(α) || Dir(1))``."""
    total = alpha.sum(dim=-1)
    normaliser = torch.lgamma(total) - torch.lgamma(alpha).sum(dim=-1) - math.lgamma(alpha.shape[-1])
    return normaliser + ((alpha - 1) * (torch.digamma(alpha) - torch.digamma(total).unsqueeze(-1))).sum(dim=-1)
