"""KTO: completions that are good or bad, without pairs, judged against a common reference point."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lightning_losses.losses.alignment.samples import count_completions, named_completions
from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_tensor
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.settings import Positive, Weight
from lightning_losses.numerics.token_sequences import token_sum


class KTO(Loss):
    """Kahneman-Tversky optimization: completions that are good or bad, without pairs, against a reference point.

    ``w_D (1 - σ(β (r - z0)))`` of a desirable completion and ``w_U (1 - σ(β (z0 - r)))`` of an undesirable one, with r
    the sum over its tokens of ``log p - log p_ref``. The reference point z0, the mean of r over completions after
    another sample's prompt, at least 0 and without gradient, estimates ``KL(p || p_ref)``. It is one number for the
    batch of all processes. Batches are best mixed of both kinds.

    Args:
        beta: β, above 0.
        desirable_weight: w_D, at least 0.
        undesirable_weight: w_U, at least 0.
        form: "kto", or "apo_zero_unpaired" with z0 = 0, which needs no mismatched completions.

    Shapes:
        logps, ref_logps, completion_mask (optional): [B, T]; desirable: [B]; mismatched_logps, ref_mismatched_logps,
        mismatched_mask (optional): [M, S], with M mostly B. Completions without a token that counts are left out.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; form "kto" without mismatched completions.

    Source:
        Ethayarajh, Xu, Muennighoff, Jurafsky, Kiela, 2024, "KTO: Model Alignment as Prospect Theoretic Optimization",
        arXiv:2402.01306; the second form is the unpaired one of D'Oosterlinck et al., 2024, "Anchored Preference
        Optimization and Contrastive Revisions", arXiv:2408.06266. Both as in TRL, which averages z0 over processes;
        here it is the mean over all of their completions.

    Example:
        >>> logps, after_another_prompt = torch.tensor([[-1.0], [-2.0]]), torch.tensor([[-5.0], [-5.0]])
        >>> loss, good = KTO(), torch.tensor([True, False])
        >>> loss(logps, logps, good, mismatched_logps=after_another_prompt, ref_mismatched_logps=after_another_prompt)
        tensor(0.5000)
    """

    batch_coupled = True
    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"

    beta: Positive = 0.1
    desirable_weight: Weight = 1.0
    undesirable_weight: Weight = 1.0
    form: Literal["kto", "apo_zero_unpaired"] = "kto"

    def needed(self) -> dict[str, str]:
        """The optional tensors that the form asks for, each with the setting that does."""
        names = ("mismatched_logps", "ref_mismatched_logps", "mismatched_mask")
        return dict.fromkeys(names, "form='kto'") if self.form == "kto" else {}

    def forward(
        self,
        logps: Float[Tensor, "batch tokens"],
        ref_logps: Float[Tensor, "batch tokens"],
        desirable: Shaped[Tensor, " batch"],
        completion_mask: Shaped[Tensor, "batch tokens"] | None = None,
        mismatched_logps: Float[Tensor, "others tokens"] | None = None,
        ref_mismatched_logps: Float[Tensor, "others tokens"] | None = None,
        mismatched_mask: Shaped[Tensor, "others tokens"] | None = None,
    ) -> Float[Tensor, ""]:
        """Check and evaluate; see the class."""
        given = named_completions(
            self._identifier, ("logps", logps), ("completion_mask", completion_mask), ("ref_logps", ref_logps)
        )
        good = self._desirable(desirable, len(given.logps))
        with torch.autocast(logps.device.type, enabled=False):
            r = token_sum(given.log_ratios, given.kept)
            if self.form == "kto":
                r = r - self.reference_point(mismatched_logps, ref_mismatched_logps, mismatched_mask).to(r)
            away = torch.where(good, -r, r)
            # One of them as a tensor: of two numbers it would be in single precision.
            weight = torch.where(good, torch.full_like(r, self.desirable_weight), self.undesirable_weight)
            return reduce(weight * torch.sigmoid(self.beta * away), "mean", given.lengths > 0)

    def reference_point(
        self,
        mismatched_logps: Float[Tensor, "others tokens"] | None,
        ref_mismatched_logps: Float[Tensor, "others tokens"] | None,
        mismatched_mask: Shaped[Tensor, "others tokens"] | None = None,
    ) -> Float[Tensor, ""]:
        """z0; 0 where no completion has a token that counts."""
        if mismatched_logps is None or ref_mismatched_logps is None:
            raise ValueError(
                f"{self._identifier}: form='kto' came without mismatched_logps and ref_mismatched_logps; give those of "
                "the completions after another sample's prompt, or form='apo_zero_unpaired'."
            )
        given = named_completions(
            self._identifier,
            ("mismatched_logps", mismatched_logps),
            ("mismatched_mask", mismatched_mask),
            ("ref_mismatched_logps", ref_mismatched_logps),
        )
        return reduce(token_sum(given.log_ratios, given.kept), "mean", given.lengths > 0).clamp(min=0).detach()

    def denominator(self, **tensors: Tensor) -> Tensor:
        """The number of completions with a token that counts."""
        return count_completions(self._identifier, "logps", tensors["logps"], tensors.get("completion_mask"))

    def _desirable(self, desirable: Shaped[Tensor, " batch"], completions: int) -> Bool[Tensor, " batch"]:
        check_tensor(self._identifier, "desirable", desirable)
        if desirable.shape != (completions,):
            raise ValueError(
                f"{self._identifier}: desirable of shape {list(desirable.shape)} came with {completions} completions; "
                "give [B], true for a good completion."
            )
        return desirable != 0
