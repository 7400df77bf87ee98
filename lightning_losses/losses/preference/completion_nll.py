"""The negative log-likelihood of completions, as a term beside a loss of preferences."""

from dataclasses import field

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.reduction import Reduction, reduce
from lightning_losses.numerics.token_sequences import completions, token_mask


class CompletionNLL(Loss):
    """The negative log-likelihood of completions, as a term beside a loss of preferences.

    ``-(1/N) sum_t log p_t`` over the N tokens of all chosen completions of the batch. With DPO it keeps the chosen
    completions from becoming unlikely together with the rejected ones (RPO); it is fine-tuning by itself.

    Args:
        reduction: "mean" over the tokens that count, "sum", or "none".

    Shapes:
        chosen_logps, chosen_mask (optional): [B, T], of tokens.

    Returns:
        A scalar, or [B, T] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        The negative log-likelihood. Beside DPO: Pang, Yuan, Cho, He, Sukhbaatar, Weston, 2024, "Iterative Reasoning
        Preference Optimization", arXiv:2404.19733, with each completion's mean; TRL's "sft" has the mean over tokens.

    Example:
        >>> import torch
        >>> CompletionNLL()(torch.tensor([[-1.0, -2.0], [-6.0, -9.0]]), torch.tensor([[1, 1], [1, 0]])).item()
        3.0
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"

    reduction: Reduction = field(default="mean", kw_only=True)

    def forward(
        self,
        chosen_logps: Float[Tensor, "completions tokens"],
        chosen_mask: Shaped[Tensor, "completions tokens"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        given = completions(self._identifier, "chosen_logps", chosen_logps, chosen_mask)
        return reduce(-given.logps, self.reduction, given.kept)

    def denominator(self, **tensors: Tensor) -> Tensor:
        """What reduction "mean" divides by: the tokens that count."""
        mask = token_mask(self._identifier, "chosen_logps", tensors["chosen_logps"], tensors.get("chosen_mask"))
        return mask.sum()
