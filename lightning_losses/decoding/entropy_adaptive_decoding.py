"""Entropy-adaptive decoding: a large network is asked where a small one is unsure."""

import math
from dataclasses import field
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lightning_losses.decoding.base import SequenceProcessor, next_logits
from lightning_losses.numerics.settings import Bound, Count


class EntropyAdaptiveDecoding(SequenceProcessor):
    """Entropy-adaptive decoding: tokens come from a large network while the entropy is high, else from a small one.

    ``H_t = -Σ p log2 p`` of the network in use, and its mean over the last `window` tokens decide: above `threshold`
    the large network, else the small one, unless a switch is fewer than `least_tokens` tokens ago. The choice holds for
    the token at hand. Each row of a batch begins with the small network, may switch at once, and switches for itself.

    The small network is the one that generates; its scores come in, and leave where it is in use. The large one reads
    the whole sequence, and only at tokens for which a row asks for it.

    Args:
        large: a causal network that gives logits [B, T, V] of the small one's vocabulary.
        threshold: τ, in bits; below 0 only the large network is used, above log2 V only the small one.
        window: tokens over which the entropy is averaged; in the beginning as many as there are.
        least_tokens: tokens between switches.
        pad_token: the token that fills shorter rows at their left, if there are such rows.

    Attributes:
        uses_large: [B] for each token of the latest sequences, whether it came from the large network.

    Shapes:
        input_ids: [B, T]; scores: [B, V], returned, or the large network's.

    Raises:
        ValueError: a setting outside its range; networks of different vocabularies.

    Source:
        "Entropy Adaptive Decoding: Dynamic Model Switching for Efficient Inference", 2025, arXiv:2502.06833, by a
        description of it: the paper's values of window, threshold and least tokens are not confirmed, and the defaults
        are ours.

    Example:
        >>> small, large = torch.tensor([[0.0, 0.0, 0.0]]), nn.Embedding.from_pretrained(torch.eye(3))
        >>> decoding = EntropyAdaptiveDecoding(large, threshold=1.0)
        >>> decoding(torch.tensor([[2]]), small), decoding.large_share()
        (tensor([[0., 0., 1.]]), 1.0)
    """

    name = "entropy_adaptive_decoding"

    large: nn.Module
    threshold: Annotated[float, Bound()] = 1.0
    window: Count = 5
    least_tokens: Count = 10
    pad_token: int | None = None
    uses_large: list[Bool[Tensor, " batch"]] = field(init=False, default_factory=list)
    _entropies: list[Float[Tensor, " batch"]] = field(init=False, default_factory=list)
    _since: Int[Tensor, " batch"] | None = field(init=False, default=None)

    def reset(self) -> None:
        """Forget the sequences so far."""
        self.uses_large, self._entropies, self._since = [], [], None

    def process(
        self, input_ids: Int[Tensor, "batch time"], scores: Float[Tensor, "batch vocabulary"]
    ) -> Float[Tensor, "batch vocabulary"]:
        """The scores of the network that each row uses."""
        if self._since is None:
            before = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
            since = torch.full((len(scores),), self.least_tokens, device=scores.device)
        else:
            before, since = self.uses_large[-1], self._since
        larger = self._larger(input_ids, scores) if before.any() else scores
        entropy = _entropy(larger.where(before.unsqueeze(-1), scores))
        self._entropies = [*self._entropies, entropy][-self.window :]
        wanted = torch.stack(self._entropies).mean(dim=0) > self.threshold
        now = wanted.where(since >= self.least_tokens, before)
        if larger is scores and now.any():
            larger = self._larger(input_ids, scores)
        self._since = torch.where(now == before, since, 0) + 1
        self.uses_large.append(now)
        return larger.where(now.unsqueeze(-1), scores)

    def large_share(self) -> float:
        """The share of the latest sequences' tokens that came from the large network; 0 before the first."""
        return torch.stack(self.uses_large).float().mean().item() if self.uses_large else 0.0

    def _larger(self, input_ids: Tensor, scores: Tensor) -> Float[Tensor, "batch vocabulary"]:
        logits = next_logits(self.name, self.large, input_ids, self.pad_token)
        if logits.shape != scores.shape:
            raise ValueError(
                f"{self.name}: the large network gives {logits.shape[-1]} logits, the small one {scores.shape[-1]}; "
                "give networks of one vocabulary."
            )
        return logits.to(scores)


def _entropy(scores: Float[Tensor, "batch vocabulary"]) -> Float[Tensor, " batch"]:
    """In bits; a token of probability 0 adds 0."""
    log_p = scores.float().log_softmax(dim=-1)
    return -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(dim=-1) / math.log(2)
