"""ORPO: the chosen completion's likelihood, and the odds ratio of both completions, without a reference."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.preference.preference_loss import PreferencePairs, ReferenceFreePreferenceLoss
from lightning_losses.numerics.probabilities import log_odds, softplus
from lightning_losses.numerics.settings import Positive, Weight


class ORPO(ReferenceFreePreferenceLoss):
    """Odds ratio preference optimization: the chosen completion's likelihood, and both completions' odds ratio.

    ``-λ log p_w - β log σ(log (p_w / (1 - p_w)) - log (p_l / (1 - p_l)))`` with ``p = exp((1/|y|) log p(y))``, the
    geometric mean of the probabilities of a completion's tokens. One training does for fine-tuning and preferences.

    Args:
        beta: β, above 0, the paper's λ: the weight of the odds ratio.
        nll_weight: λ, at least 0: the weight of the likelihood.

    Shapes:
        chosen_logps, chosen_mask (optional): [B, T], of tokens; those of the rejected: [B, S].

    Returns:
        A scalar, or [B] without reduction; at least 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; settings out of range.

    Source:
        Hong, Lee, Thorne, 2024, "ORPO: Monolithic Preference Optimization without Reference Model", arXiv:2403.07691.
        Liger averages the likelihood over all chosen tokens of the batch, which is ``nll_weight=0`` beside a term of
        `CompletionNLL`, and TRL counts the prompt's tokens with them; here it is each completion's mean. p is taken to
        be at most 1 - 1e-6.

    Example:
        >>> import torch
        >>> even = torch.tensor([[-1.0, -2.0]])
        >>> round(ORPO()(even, even).item(), 4)  # 1.5 + 0.1 log 2
        1.5693
    """

    status = "paper"
    evidence = "values and gradients of huggingface/trl, not the authors' code"

    beta: Positive = 0.1
    nll_weight: Weight = 1.0

    def pairs(self, given: PreferencePairs) -> Float[Tensor, " pairs"]:
        """The value of each pair."""
        chosen, rejected = given.chosen_means, given.rejected_means
        return self.beta * softplus(log_odds(rejected) - log_odds(chosen)) - self.nll_weight * chosen
