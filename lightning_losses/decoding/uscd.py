"""USCD: contrast with a prompt without examples, where the network is unsure."""

import math
from dataclasses import field
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lightning_losses.decoding.base import SequenceProcessor, next_logits
from lightning_losses.numerics.settings import Bound, Count, NonNegative, Weight


class USCD(SequenceProcessor):
    """Uncertainty-aware selective contrastive decoding: where unsure, what a lame prompt says too is subtracted.

    With p after the prompt and p' after the lame prompt, which lacks the prompt's examples, both followed by the
    completion so far: if the standard deviation of p over the vocabulary exceeds `threshold`, the network is sure, and
    the scores stay. Else they are::

        (1 + α) log p - α log p'   where p >= β max p,   -inf elsewhere

    The network reads the lame prompt and the completion whole, and only at tokens where a row is unsure.

    Args:
        network: the causal network that generates, or another of its vocabulary: logits [B, T, V] of tokens.
        lame_prompts: [B, L] or [1, L] int64.
        prompt_length: the number of tokens in the prompts that are generated from.
        threshold: of the standard deviation, at least 0; for V tokens it is at most 1 / sqrt(V) (population).
        alpha: α, the weight of the contrast, at least 0.
        beta: β, the least share of the largest probability, in [0, 1].

    Attributes:
        contrasts: [B] for each token of the latest sequences, whether the contrast was used.

    Shapes:
        input_ids: [B, T] with T of at least `prompt_length`; scores: [B, V], returned or contrasted.

    Raises:
        ValueError: a setting outside its range; lame prompts that are no int64 [B, L] or [1, L]; sequences shorter than
            the prompts; another vocabulary.

    Source:
        Wang et al., 2024, "USCD: Improving Code Generation of LLMs by Uncertainty-Aware Selective Contrastive
        Decoding", arXiv:2409.05923. Experimental: reconstructed from the abstract; the formula and its defaults are not
        confirmed.

    Example:
        >>> network = nn.Embedding.from_pretrained(torch.tensor([[2.0, 2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
        >>> uscd = USCD(network, torch.tensor([[1]]), prompt_length=1, threshold=0.5)
        >>> uscd(torch.tensor([[0]]), network(torch.tensor([0]))).argmax()
        tensor(1)
    """

    name = "uscd"

    network: nn.Module
    lame_prompts: Int[Tensor, "batch lame"]
    prompt_length: Count
    threshold: NonNegative = 0.05
    alpha: Weight = 0.5
    beta: Annotated[float, Bound(least=0, most=1)] = 0.1
    contrasts: list[Bool[Tensor, " batch"]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        lame = self.lame_prompts
        if not isinstance(lame, Tensor) or lame.dtype != torch.int64 or lame.ndim != 2 or lame.shape[1] == 0:
            raise ValueError(f"{self.name}: lame_prompts={lame!r} came; give int64 tokens [B, L] with L of at least 1.")

    def reset(self) -> None:
        """Forget the sequences so far."""
        self.contrasts = []

    def process(
        self, input_ids: Int[Tensor, "batch time"], scores: Float[Tensor, "batch vocabulary"]
    ) -> Float[Tensor, "batch vocabulary"]:
        """The scores, contrasted in the rows that are unsure."""
        rows, length = input_ids.shape
        if length < self.prompt_length or self.lame_prompts.shape[0] not in (1, rows):
            raise ValueError(
                f"{self.name}: {rows} sequences of {length} tokens came; give as many as lame_prompts, "
                f"{len(self.lame_prompts)}, of at least prompt_length={self.prompt_length} tokens."
            )
        log_p = scores.float().log_softmax(dim=-1)
        unsure = log_p.exp().std(dim=-1, correction=0) <= self.threshold
        self.contrasts.append(unsure)
        if not unsure.any():
            return scores
        lame = self.lame_prompts.to(input_ids.device).expand(rows, -1)
        lame_scores = next_logits(self.name, self.network, torch.cat([lame, input_ids[:, self.prompt_length :]], dim=1))
        if lame_scores.shape != scores.shape:
            raise ValueError(
                f"{self.name}: the network gives {lame_scores.shape[-1]} logits, and {scores.shape[-1]} scores came; "
                "give a network of the same vocabulary."
            )
        log_lame = lame_scores.to(log_p).log_softmax(dim=-1)
        least = log_p.amax(dim=-1, keepdim=True) + (math.log(self.beta) if self.beta else -math.inf)
        plausible = (log_p >= least) & (log_p > -torch.inf)
        # A token that the lame prompt rules out stands out without bound; a finite score keeps a distribution.
        contrast = (1 + self.alpha) * log_p - self.alpha * log_lame.clamp(min=-1e4)
        contrast = contrast.masked_fill(~plausible, -torch.inf)
        return contrast.to(scores.dtype).where(unsure.unsqueeze(-1), scores)
