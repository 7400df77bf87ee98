"""PPO's loss of a critic: values near the returns, and near what they were."""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lightning_losses.losses.policy_gradient.completion_loss import CompletionLoss
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.settings import Positive
from lightning_losses.numerics.token_sequences import token_mask


class PPOValueLoss(CompletionLoss):
    """PPO's loss of a critic: values near the returns, and near what they were.

    ``1/2 max((v - R)², (clip(v, v_old - c, v_old + c) - R)²)`` of each token. The gradient is v - R, and 0 where v has
    left the range and is nearer to R than the range's end.

    Args:
        clip: c, above 0; None: no range, the half of the squared error.

    Shapes:
        values, returns: [B, T]; old_values (optional): [B, T], before the update, without which v is taken for it;
        completion_mask (optional): [B, T].

    Returns:
        A scalar; 0 without a token that counts.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        Schulman, Wolski, Dhariwal, Radford, Klimov, 2017, "Proximal Policy Optimization Algorithms", arXiv:1707.06347,
        for the method; the range is that of its code. TRL has c = 0.2, weighs the loss by 0.1, and lets one more
        position count than there are tokens; OpenRLHF has c = 0.5.

    Example:
        >>> PPOValueLoss()(torch.tensor([[1.0]]), torch.tensor([[0.0]]))
        tensor(0.5000)
    """

    status = "paper"
    evidence = "values and gradients of volcengine/verl and OpenRLHF/OpenRLHF, not the authors' code"

    clip: Positive | None = 0.2

    def forward(
        self,
        values: Float[Tensor, "batch tokens"],
        returns: Float[Tensor, "batch tokens"],
        old_values: Float[Tensor, "batch tokens"] | None = None,
        completion_mask: Shaped[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, ""]:
        """Check, evaluate and average; see the class."""
        before = values if old_values is None else old_values
        for name, tensor in (("values", values), ("returns", returns), ("old_values", before)):
            check_floating(self._identifier, name, tensor)
            if tensor.ndim != 2 or tensor.shape != values.shape:
                raise ValueError(
                    f"{self._identifier}: {name} of shape {list(tensor.shape)} came with values of shape "
                    f"{list(values.shape)}; give one number for each token, [batch, tokens]."
                )
        kept = token_mask(self._identifier, "values", values, completion_mask)
        now = full_precision(values).masked_fill(~kept, 0.0)
        goal, old = (full_precision(tensor.detach()).masked_fill(~kept, 0.0) for tensor in (returns, before))
        error = (now - goal).square()
        if self.clip is not None:
            within = old + (now - old).clamp(-self.clip, self.clip)
            error = torch.maximum(error, (within - goal).square())
        return self.average(error / 2, kept)

    def counted(self, **tensors: Tensor) -> Bool[Tensor, "batch tokens"]:
        """Which tokens count."""
        return token_mask(self._identifier, "values", tensors["values"], tensors.get("completion_mask"))
