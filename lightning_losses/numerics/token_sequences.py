"""Values of the tokens of completions: sums and means over the tokens that count."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_losses.numerics.checks import check_floating, check_tensor
from lightning_losses.numerics.probabilities import finite_logarithms, full_precision


class Completions(NamedTuple):
    """Checked log-probabilities of the tokens of completions in full precision, 0 where a token does not count.

    One of -inf is -100, a constant.

    Attributes:
        logps: [B, T] log-probabilities of the tokens.
        kept: [B, T] which tokens count.
        reference: [B, T] the reference's log-probabilities, constant, 0 where a token does not count; None without.
    """

    logps: Float[Tensor, "batch tokens"]
    kept: Bool[Tensor, "batch tokens"]
    reference: Float[Tensor, "batch tokens"] | None = None

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        """The number of tokens of each completion that count."""
        return self.kept.sum(dim=1)

    @property
    def log_ratios(self) -> Float[Tensor, "batch tokens"]:
        """``log p - log p_ref`` of each token; without a reference ``log p``."""
        return self.logps if self.reference is None else self.logps - self.reference


def completions(
    loss: str,
    name: str,
    logps: Float[Tensor, "batch tokens"],
    mask: Shaped[Tensor, "batch tokens"] | None = None,
    reference: Float[Tensor, "batch tokens"] | None = None,
) -> Completions:
    """Check the log-probabilities of completions, and take out the tokens that do not count, whatever they hold.

    Args:
        loss: who asks, for messages.
        name: what the log-probabilities are called, for messages.
        logps: [B, T] log-probabilities of the tokens.
        mask: [B, T] other than 0 for a token that counts; None: all count.
        reference: [B, T] the reference's log-probabilities of the same tokens; its gradient is cut.

    Raises:
        ValueError: another number of dimensions, shapes that differ, or tensors that are no floating-point numbers.

    Example:
        >>> given = completions("dpo", "chosen_logps", torch.tensor([[-1.0, torch.nan]]), torch.tensor([[1, 0]]))
        >>> given.logps.tolist(), given.lengths.tolist()
        ([[-1.0, 0.0]], [1])
    """
    check_floating(loss, name, logps)
    if logps.ndim != 2:
        raise ValueError(
            f"{loss}: {name} of shape {list(logps.shape)} came; give the log-probability of each token, [B, T] (sums "
            "of whole completions as [B, 1])."
        )
    kept = token_mask(loss, name, logps, mask)
    if reference is not None:
        check_floating(loss, f"ref_{name}", reference)
        if reference.shape != logps.shape:
            raise ValueError(
                f"{loss}: {name} of shape {list(logps.shape)} came with the reference's of shape "
                f"{list(reference.shape)}; give both of the same tokens."
            )
        reference = finite_logarithms(full_precision(reference.detach()).masked_fill(~kept, 0.0))
    return Completions(finite_logarithms(full_precision(logps).masked_fill(~kept, 0.0)), kept, reference)


def token_mask(
    loss: str, name: str, values: Shaped[Tensor, "batch tokens"], mask: Shaped[Tensor, "batch tokens"] | None
) -> Bool[Tensor, "batch tokens"]:
    """Which tokens count; all without a mask.

    Raises:
        ValueError: a mask of another shape.
    """
    if mask is None:
        return torch.ones_like(values, dtype=torch.bool)
    check_tensor(loss, mask_of(name), mask)
    if mask.shape != values.shape:
        raise ValueError(
            f"{loss}: {name} of shape {list(values.shape)} came with a mask of shape {list(mask.shape)}; give one "
            "number for each token."
        )
    return mask != 0


def mask_of(name: str) -> str:
    """What the mask of values of tokens is called.

    Example:
        >>> mask_of("chosen_logps"), mask_of("logps"), mask_of("values")
        ('chosen_mask', 'completion_mask', 'completion_mask')
    """
    return f"{name.removesuffix('logps')}mask" if name.endswith("_logps") else "completion_mask"


def token_sum(values: Float[Tensor, "batch tokens"], kept: Bool[Tensor, "batch tokens"]) -> Float[Tensor, " batch"]:
    """The sum over each row's tokens that count; 0 without one."""
    return values.masked_fill(~kept, 0.0).sum(dim=1)


def token_mean(values: Float[Tensor, "batch tokens"], kept: Bool[Tensor, "batch tokens"]) -> Float[Tensor, " batch"]:
    """The mean over each row's tokens that count; 0 without one.

    Example:
        >>> token_mean(torch.tensor([[1.0, 3.0], [5.0, torch.inf]]), torch.tensor([[True, True], [True, False]]))
        tensor([2., 5.])
    """
    return token_sum(values, kept) / kept.sum(dim=1).clamp(min=1)
