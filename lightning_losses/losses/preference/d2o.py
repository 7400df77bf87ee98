"""D2O: a rejected completion alone, against completions that the model itself makes."""

from dataclasses import field

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.alignment.samples import count_completions, named_completions, samples_per_prompt
from lightning_losses.losses.base import Loss
from lightning_losses.numerics.probabilities import softplus
from lightning_losses.numerics.reduction import Reduction, reduce
from lightning_losses.numerics.settings import Positive
from lightning_losses.numerics.token_sequences import token_sum


class D2O(Loss):
    """Distributional dispreference optimization: a rejected completion alone, against the model's own completions.

    ``-log σ((β/K) sum_k log(p(y_k) / p_-(y_k)) - α log(p(y_l) / p_+(y_l)))`` with the rejected completion y_l, written
    by a human, and K completions y_k that the first model sampled. No chosen completion is needed. With K = 1, α = β
    and one reference it is DPO whose chosen completion is the model's own.

    Args:
        alpha: α, above 0.
        beta: β, above 0.
        reduction: "mean" over prompts, "sum", or "none".

    Shapes:
        logps, ref_logps, completion_mask (optional): [B K, T], the sampled completions, those of a prompt one after
        the other; rejected_logps, ref_rejected_logps, rejected_mask (optional): [B, S]. `ref_logps` are of p_- and
        `ref_rejected_logps` of p_+; both may be the first model. Prompts without a rejected token that counts are left
        out.

    Returns:
        A scalar, or [B] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; sampled completions whose number is no multiple of B.

    Source:
        Duan et al., 2024, "Negating Negatives: Alignment with Human Negative Samples via Distributional Dispreference
        Optimization", arXiv:2403.03419, equation 3 as others quote it; K = 11 there. Its code was not seen.

    Example:
        >>> of_samples, of_rejected = torch.tensor([[-1.0], [-2.0]]), torch.tensor([[-3.0]])
        >>> round(D2O()(of_samples, of_samples, of_rejected, of_rejected).item(), 4)  # log 2
        0.6931
    """

    status = "paper"
    evidence = "values and gradients that were evaluated from the formula; no code of the authors was seen"

    alpha: Positive = 0.1
    beta: Positive = 0.1
    reduction: Reduction = field(default="mean", kw_only=True)

    def forward(
        self,
        logps: Float[Tensor, "samples tokens"],
        ref_logps: Float[Tensor, "samples tokens"],
        rejected_logps: Float[Tensor, "batch others"],
        ref_rejected_logps: Float[Tensor, "batch others"],
        completion_mask: Shaped[Tensor, "samples tokens"] | None = None,
        rejected_mask: Shaped[Tensor, "batch others"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        own = named_completions(
            self._identifier, ("logps", logps), ("completion_mask", completion_mask), ("ref_logps", ref_logps)
        )
        rejected = named_completions(
            self._identifier,
            ("rejected_logps", rejected_logps),
            ("rejected_mask", rejected_mask),
            ("ref_rejected_logps", ref_rejected_logps),
        )
        prompts = len(rejected.logps)
        each = samples_per_prompt(self._identifier, "logps", len(own.logps), prompts)
        with torch.autocast(logps.device.type, enabled=False):
            up = token_sum(own.log_ratios, own.kept).view(prompts, each).mean(dim=1)
            down = token_sum(rejected.log_ratios, rejected.kept)
            return reduce(softplus(self.alpha * down - self.beta * up), self.reduction, rejected.lengths > 0)

    def denominator(self, **tensors: Tensor) -> Tensor:
        """The number of prompts with a rejected token that counts."""
        rejected = tensors["rejected_logps"]
        return count_completions(self._identifier, "rejected_logps", rejected, tensors.get("rejected_mask"))
