"""The base of logits processors that remember the sequence so far, and what networks say of its last token."""

from abc import abstractmethod
from dataclasses import field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.networks.calls import call, in_evaluation, logits_of
from lightning_losses.numerics.settings import Declared


class SequenceProcessor(Declared):
    """A logits processor that begins anew with sequences that don't continue the last ones by a token.

    It is called with the tokens so far and the scores of the next, and returns scores: so do
    `lightning_losses.decoding.generate` and transformers' generate. Rows keep their places: no beams.
    """

    _tokens: Int[Tensor, "batch time"] | None = field(init=False, default=None)

    def __call__(
        self, input_ids: Int[Tensor, "batch time"], scores: Float[Tensor, "batch vocabulary"]
    ) -> Float[Tensor, "batch vocabulary"]:
        """The scores to draw from."""
        before = self._tokens
        continues = (
            before is not None
            and before.shape[0] == input_ids.shape[0]
            and before.shape[1] + 1 == input_ids.shape[1]
            and torch.equal(before, input_ids[:, :-1].to(before.device))
        )
        if not continues:
            self.reset()
        # A copy: whoever generates may write its tokens in place.
        self._tokens = input_ids.clone()
        return self.process(input_ids, scores)

    @abstractmethod
    def reset(self) -> None:
        """Forget the sequences so far."""

    @abstractmethod
    def process(
        self, input_ids: Int[Tensor, "batch time"], scores: Float[Tensor, "batch vocabulary"]
    ) -> Float[Tensor, "batch vocabulary"]:
        """The scores to draw from, for sequences that continue, or begin after `reset`."""


def next_logits(
    who: str, network: nn.Module, tokens: Int[Tensor, "batch time"], pad_token: int | None = None
) -> Float[Tensor, "batch vocabulary"]:
    """What a causal network says of the token after each row, in evaluation mode and without gradient.

    Args:
        who: the name that errors begin with.
        network: gives logits [B, T, V] of tokens [B, T]. It reads the whole rows.
        tokens: [B, T].
        pad_token: the token that fills shorter rows at their left, if there are such rows.

    Example:
        >>> next_logits("doc", nn.Embedding(3, 3), torch.tensor([[0, 1], [2, 0]])).shape
        torch.Size([2, 3])
    """
    aligned, last = without_left_padding(tokens, pad_token)
    with torch.no_grad(), in_evaluation(network):
        logits = logits_of(f"{who}: the network", call(network, aligned))
    return logits[torch.arange(len(tokens), device=logits.device), last]


def without_left_padding(
    tokens: Int[Tensor, "batch time"], pad_token: int | None
) -> tuple[Int[Tensor, "batch time"], Int[Tensor, " batch"]]:
    """The rows with their padding moved to the right, where a causal network doesn't see it, and their last places.

    Example:
        >>> without_left_padding(torch.tensor([[0, 0, 5, 0], [1, 2, 3, 4]]), pad_token=0)
        (tensor([[5, 0, 0, 0],
                [1, 2, 3, 4]]), tensor([1, 3]))
    """
    longest = tokens.shape[1]
    if pad_token is None:
        return tokens, torch.full((len(tokens),), longest - 1, device=tokens.device)
    padding = (tokens == pad_token).long().cumprod(dim=1).sum(dim=1).clamp(max=longest - 1)
    places = torch.arange(longest, device=tokens.device) + padding.unsqueeze(-1)
    return tokens.gather(1, places % longest), longest - 1 - padding
