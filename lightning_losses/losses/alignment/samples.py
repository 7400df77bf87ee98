"""Completions beside pairs: checked under the names they come by, and those that a policy sampled of each prompt."""

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.numerics.checks import check_floating, check_tensor
from lightning_losses.numerics.probabilities import finite_logarithms
from lightning_losses.numerics.token_sequences import Completions, completions, token_mask


def named_completions(
    loss: str,
    logps: tuple[str, Float[Tensor, "batch tokens"]],
    mask: tuple[str, Shaped[Tensor, "batch tokens"] | None],
    reference: tuple[str, Float[Tensor, "batch tokens"]] | None = None,
) -> Completions:
    """Checked completions; a log-probability of -inf is -100, a constant, as in the losses of pairs.

    Args:
        loss: who asks, for messages.
        logps: the name and the log-probabilities of the tokens.
        mask: the name and the mask, or None.
        reference: the name and the reference's log-probabilities; None without one.
    """
    if mask[1] is not None:
        check_tensor(loss, mask[0], mask[1])
    if reference is not None:
        check_floating(loss, *reference)
    given = completions(loss, *logps, mask[1], None if reference is None else reference[1])
    other = given.reference
    return given._replace(
        logps=finite_logarithms(given.logps), reference=None if other is None else finite_logarithms(other)
    )


def count_completions(
    loss: str, name: str, logps: Float[Tensor, "batch tokens"], mask: Shaped[Tensor, "batch tokens"] | None
) -> Tensor:
    """The number of completions with a token that counts.

    Example:
        >>> count_completions("kto", "logps", torch.zeros(2, 3), torch.tensor([[1, 0, 0], [0, 0, 0]]))
        tensor(1)
    """
    return token_mask(loss, name, logps, mask).any(dim=1).sum()


def samples_per_prompt(loss: str, name: str, samples: int, prompts: int) -> int:
    """How many completions each prompt has; 1 where there is no prompt.

    Raises:
        ValueError: completions that can't be shared out evenly.

    Example:
        >>> samples_per_prompt("d2o", "logps", samples=6, prompts=2)
        3
    """
    each, left = divmod(samples, prompts) if prompts else (1, samples)
    if left or not each:
        raise ValueError(
            f"{loss}: {name} of {samples} completions came for {prompts} prompts; give equally many for each prompt, "
            "those of a prompt one after the other."
        )
    return each
