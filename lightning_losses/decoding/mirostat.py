"""Mirostat: sampling whose surprise is held at a target."""

import math
from abc import abstractmethod
from dataclasses import field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.decoding.base import SequenceProcessor
from lightning_losses.numerics.settings import Count, NonNegative, Positive

# Below, a power law is as good as flat, and 1 / s beyond any number of tokens.
_FLATTEST = 1e-3


class SurpriseControl(SequenceProcessor):
    """Keeps the tokens that a bound µ on the surprise allows, and moves µ by the surprise of what was drawn."""

    target_surprise: Positive = 3.0
    learning_rate: NonNegative = 1.0
    surprises: list[Float[Tensor, " batch"]] = field(init=False, default_factory=list)
    _maximum: Float[Tensor, " batch"] | None = field(init=False, default=None)
    _offered: Float[Tensor, "batch vocabulary"] | None = field(init=False, default=None)

    def reset(self) -> None:
        """Forget the sequences so far."""
        self.surprises = []
        self._maximum = self._offered = None

    def process(
        self, input_ids: Int[Tensor, "batch time"], scores: Float[Tensor, "batch vocabulary"]
    ) -> Float[Tensor, "batch vocabulary"]:
        """The scores, -inf for the tokens that are cut off."""
        surprise = -scores.double().log_softmax(dim=-1) / math.log(2)
        maximum = self._maximum
        if maximum is None or self._offered is None:
            maximum = surprise.new_full((len(scores),), 2 * self.target_surprise)
        else:
            observed = self._offered.gather(1, input_ids[:, -1:].to(surprise.device)).squeeze(1)
            # A token of probability 0, which may fill up a row that has ended, tells nothing.
            observed = observed.where(observed.isfinite(), self.target_surprise)
            self.surprises.append(observed)
            maximum = maximum - self.learning_rate * (observed - self.target_surprise)
        self._maximum, self._offered = maximum, surprise
        # The most probable token stays, whatever the bound.
        kept = self.kept(surprise, maximum).scatter(1, surprise.argmin(dim=-1, keepdim=True), True)
        return scores.masked_fill(~kept, -torch.inf)

    @abstractmethod
    def kept(
        self, surprise: Float[Tensor, "batch vocabulary"], maximum: Float[Tensor, " batch"]
    ) -> Bool[Tensor, "batch vocabulary"]:
        """Which tokens the bound allows."""


class Mirostat(SurpriseControl):
    """Mirostat, version 1: top-k sampling whose k holds the surprise, -log2 p, at a target.

    In each step the exponent s of a power law is fitted to the sorted probabilities; k is the number of tokens at which
    a source with this law has surprise µ. What is drawn moves µ::

        s = Σ log(t_i) log(p_i / p_{i+1}) / Σ log(t_i)²,  t_i = (i + 1) / i,  i = 1 .. candidates
        k = round(((s - 1) 2^µ / (1 - N^(1 - s)))^(1 / s)) + 1
        µ <- µ - learning_rate (-log2 p(drawn) - target),  at first µ = 2 target_surprise

    p are the probabilities before the cut. It is a logits processor, for `lightning_losses.decoding.generate` and
    transformers' generate (sampling, without beams), with a µ for each row.

    Args:
        target_surprise: τ, in bits, above 0; the perplexity of what is drawn tends to 2^τ.
        learning_rate: η, at least 0.
        candidates: m, the number of ratios that the exponent is fitted to.
        vocabulary_size: N; None: the number of scores. The authors' code has 50 000, whatever the network.

    Attributes:
        surprises: [B] of each token of the latest sequences but the last, in bits; after a row has ended, of what fills
            it up.

    Shapes:
        input_ids: [B, T]; scores: [B, V], returned with -inf for what is cut off.

    Raises:
        ValueError: a setting outside its range.

    Source:
        Basu, Ramachandran, Keskar, Varshney, 2021, "Mirostat: A Neural Text Decoding Algorithm that Directly Controls
        Perplexity", arXiv:2007.14966, and basusourya/mirostat. At s = 1, where the formula is 0 / 0, k is its limit;
        ratios with a probability of 0 are left out of the fit; k is kept within the vocabulary.

    Example:
        >>> Mirostat(target_surprise=1.0)(torch.tensor([[0]]), torch.tensor([[2.0, 1.0, 0.0, -1.0]]))
        tensor([[2., 1., 0., -inf]])
    """

    name = "mirostat"

    candidates: Count = 100
    vocabulary_size: Count | None = None

    def kept(
        self, surprise: Float[Tensor, "batch vocabulary"], maximum: Float[Tensor, " batch"]
    ) -> Bool[Tensor, "batch vocabulary"]:
        """The k most probable."""
        increasing, order = surprise.sort(dim=-1)
        exponent = power_law_exponent(increasing[:, : self.candidates + 1])
        size = self.vocabulary_size or surprise.shape[-1]
        count = surprise_count(exponent, maximum, size).clamp(max=surprise.shape[-1]) + 1
        rank = torch.arange(surprise.shape[-1], device=surprise.device).expand_as(order)
        return torch.zeros_like(surprise, dtype=torch.bool).scatter(1, order, rank < count.unsqueeze(-1))


class MirostatV2(SurpriseControl):
    """Mirostat, version 2: only tokens with a surprise of at most µ are drawn, which needs no law of the probabilities.

    ``kept = {v: -log2 p_v <= µ}`` and the most probable token; µ as in `Mirostat`.

    Args:
        target_surprise: τ, in bits, above 0; the perplexity of what is drawn tends to 2^τ.
        learning_rate: η, at least 0.

    Attributes:
        surprises: [B] of each token of the latest sequences but the last, in bits; after a row has ended, of what fills
            it up.

    Shapes:
        input_ids: [B, T]; scores: [B, V], returned with -inf for what is cut off.

    Raises:
        ValueError: a setting outside its range.

    Source:
        Basu, Ramachandran, Keskar, Varshney, 2021, "Mirostat: A Neural Text Decoding Algorithm that Directly Controls
        Perplexity", arXiv:2007.14966, and ggml-org/llama.cpp, which measures the surprise of what was drawn after the
        cut; this measures it before, as the authors do in version 1.

    Example:
        >>> MirostatV2(target_surprise=1.5)(torch.tensor([[0]]), torch.tensor([[2.0, 1.0, 0.0, -1.0]]))
        tensor([[2., 1., -inf, -inf]])
    """

    name = "mirostat_v2"

    def kept(
        self, surprise: Float[Tensor, "batch vocabulary"], maximum: Float[Tensor, " batch"]
    ) -> Bool[Tensor, "batch vocabulary"]:
        """Those of a surprise of at most the bound."""
        return surprise <= maximum.unsqueeze(-1)


def power_law_exponent(surprises: Float[Tensor, "*rows tokens"]) -> Float[Tensor, "*rows"]:
    """s of the power law i^-s through the probabilities of the most probable tokens, by least squares of their ratios.

    Args:
        surprises: [..., m + 1] -log2 p, increasing; inf for a probability of 0.

    Returns:
        [...]; 0 for fewer than two probabilities above 0.

    Example:
        >>> power_law_exponent(1.5 * torch.arange(1, 9).log2())
        tensor(1.5000)
    """
    steps = (surprises[..., 1:] - surprises[..., :-1]) * math.log(2)
    log_t = torch.arange(1, surprises.shape[-1], device=surprises.device, dtype=surprises.dtype).reciprocal().log1p()
    finite = steps.isfinite()
    return (log_t * steps.where(finite, 0.0)).sum(-1) / (log_t.square() * finite).sum(-1).clamp(min=1e-12)


def surprise_count(
    exponent: Float[Tensor, "*rows"], maximum: Float[Tensor, "*rows"], vocabulary_size: int
) -> Int[Tensor, "*rows"]:
    """The number of tokens, rounded, at which a power law has this surprise in bits; at most the vocabulary.

    Example:
        >>> surprise_count(torch.tensor([1.0, 1.2]), torch.tensor([6.0, 6.0]), 50_000)
        tensor([6, 9])
    """
    s = exponent.double().clamp(min=_FLATTEST)
    log_size, excess = math.log(max(vocabulary_size, 2)), s - 1
    small = excess.abs() < 1e-9
    safe = torch.where(small, 1.0, excess)
    log_ratio = torch.where(small, -math.log(log_size), (safe / -torch.expm1(-safe * log_size)).log())
    log_count = (maximum.double() * math.log(2) + log_ratio) / s
    return log_count.clamp(max=log_size).exp().round().long()
