"""Scores of a text that are higher, the likelier it was in the training data, from a language model's token record."""

import zlib
from collections.abc import Sequence
from fractions import Fraction

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_losses.numerics.checks import check_floating, check_number, check_tensor
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.token_sequences import Completions, completions, token_mean


def loss_score(
    logps: Float[Tensor, "batch tokens"], mask: Shaped[Tensor, "batch tokens"] | None = None
) -> Float[Tensor, " batch"]:
    """The mean log-probability of each text: what a model was trained on has a low loss.

    Args:
        logps: [B, T] log-probabilities of the tokens, such as a `TokenRecord` has.
        mask: [B, T] other than 0 for a token that counts, such as the record's `kept`; None: all.

    Returns:
        [B]; NaN for a text without a token.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        Yeom, Giacomelli, Fredrikson, Jha, 2018, "Privacy Risk in Machine Learning: Analyzing the Connection to
        Overfitting", arXiv:1709.01604.

    Example:
        >>> loss_score(torch.tensor([[-1.0, -3.0]])).item()
        -2.0
    """
    return _mean(completions("loss_score", "logps", logps, mask))


def zlib_score(
    logps: Float[Tensor, "batch tokens"],
    texts: Sequence[bytes | str],
    mask: Shaped[Tensor, "batch tokens"] | None = None,
) -> Float[Tensor, " batch"]:
    """The mean log-probability over the size to which zlib compresses the text: repetitive texts are likely anyway.

    Args:
        logps: [B, T] log-probabilities of the tokens.
        texts: what each row says.
        mask: [B, T] other than 0 for a token that counts; None: all.

    Returns:
        [B] nats per byte of the compressed text; NaN for a text without a token.

    Raises:
        ValueError: as `loss_score`; another number of texts.

    Source:
        Carlini, Tramèr, Wallace, Jagielski, Herbert-Voss, Lee, Roberts, Brown, Song, Erlingsson, Oprea, Raffel, 2021,
        "Extracting Training Data from Large Language Models", arXiv:2012.07805.

    Example:
        >>> repeated, other = zlib_score(torch.full((2, 3), -1.0), ["aa" * 99, "import os, sys"])
        >>> bool(repeated < other)
        True
    """
    given = completions("zlib_score", "logps", logps, mask)
    if len(texts) != len(logps):
        raise ValueError(f"zlib_score: {len(logps)} rows came with {len(texts)} texts; give one for each.")
    sizes = [len(zlib.compress(text.encode() if isinstance(text, str) else text)) for text in texts]
    return _mean(given) / given.logps.new_tensor(sizes)


def reference_score(
    logps: Float[Tensor, "batch tokens"],
    ref_logps: Float[Tensor, "batch tokens"],
    mask: Shaped[Tensor, "batch tokens"] | None = None,
) -> Float[Tensor, " batch"]:
    """The mean log-ratio of each text to a model that was not trained on it: easy texts are likely under both.

    Args:
        logps: [B, T] log-probabilities of the tokens.
        ref_logps: [B, T] the reference's.
        mask: [B, T] other than 0 for a token that counts; None: all.

    Returns:
        [B]; NaN for a text without a token.

    Raises:
        ValueError: as `loss_score`.

    Source:
        Carlini, Chien, Nasr, Song, Terzis, Tramèr, 2022, "Membership Inference Attacks From First Principles",
        arXiv:2112.03570: the difference in difficulty, by one reference.

    Example:
        >>> reference_score(torch.tensor([[-1.0, -3.0]]), torch.tensor([[-2.0, -3.0]])).item()
        0.5
    """
    given = completions("reference_score", "logps", logps, mask, ref_logps)
    return _mean(given._replace(logps=given.log_ratios))


def min_k_score(
    logps: Float[Tensor, "batch tokens"],
    mask: Shaped[Tensor, "batch tokens"] | None = None,
    share: float = 0.2,
) -> Float[Tensor, " batch"]:
    """Min-K%: the mean log-probability of each text's least likely tokens: a text never seen has surprising ones.

    Args:
        logps: [B, T] log-probabilities of the tokens.
        mask: [B, T] other than 0 for a token that counts; None: all.
        share: the share of the tokens that count, above 0 and at most 1; at least one token.

    Returns:
        [B]; NaN for a text without a token.

    Raises:
        ValueError: as `loss_score`; a share out of range.

    Source:
        Shi, Ajith, Xia, Huang, Liu, Blevins, Chen, Zettlemoyer, 2023, "Detecting Pretraining Data from Large Language
        Models", arXiv:2310.16789.

    Example:
        >>> min_k_score(torch.tensor([[-1.0, -3.0, -5.0, -2.0]]), share=0.5).item()
        -4.0
    """
    check_number("min_k_score", "share", share, above=0, most=1)
    given = completions("min_k_score", "logps", logps, mask)
    return _mean_of_lowest(given.logps, given.kept, share)


def min_k_plus_plus_score(
    logps: Float[Tensor, "batch tokens"],
    entropies: Float[Tensor, "batch tokens"],
    variances: Float[Tensor, "batch tokens"],
    mask: Shaped[Tensor, "batch tokens"] | None = None,
    share: float = 0.2,
) -> Float[Tensor, " batch"]:
    """Min-K%++: as `min_k_score`, of log-probabilities standardised over the vocabulary at each token.

    ``(log p - μ) / σ`` with μ, minus the entropy, and σ² the mean and the variance of ``log p_v`` under p: a token in
    training data is a mode of its distribution.

    Args:
        logps: [B, T] log-probabilities of the tokens.
        entropies: [B, T] of the distributions, in nats.
        variances: [B, T] of the log-probabilities under the distributions.
        mask: [B, T] other than 0 for a token that counts; None: all.
        share: the share of the tokens that count, above 0 and at most 1; at least one token.

    Returns:
        [B]; NaN for a text without a token.

    Raises:
        ValueError: as `min_k_score`.

    Source:
        Zhang, Sun, Yeats, Ouyang, Kuo, Zhang, Yang, Li, 2024, "Min-K%++: Improved Baseline for Detecting Pre-Training
        Data from Large Language Models", arXiv:2404.02936.

    Example:
        >>> one = torch.ones(1, 2)
        >>> min_k_plus_plus_score(torch.tensor([[-1.0, -4.0]]), one, 9 * one, share=0.5).item()
        -1.0
    """
    check_number("min_k_plus_plus_score", "share", share, above=0, most=1)
    given = completions("min_k_plus_plus_score", "logps", logps, mask)
    for name, values in (("entropies", entropies), ("variances", variances)):
        check_floating("min_k_plus_plus_score", name, values)
        if values.shape != logps.shape:
            raise ValueError(
                f"min_k_plus_plus_score: {name} of shape {list(values.shape)} came with logps of shape "
                f"{list(logps.shape)}; give both of the same tokens."
            )
    # A distribution that is uniform, or sure, has no spread: its token is neither high nor low.
    spread = full_precision(variances).clamp(min=torch.finfo(torch.float32).eps).sqrt()
    standardised = (given.logps + full_precision(entropies)) / spread
    return _mean_of_lowest(standardised.masked_fill(~given.kept, 0.0), given.kept, share)


def token_frequencies(
    counts: Int[Tensor, " vocabulary"] | Float[Tensor, " vocabulary"],
) -> Float[Tensor, " vocabulary"]:
    """How frequent each token is in a reference corpus, with one added to each count.

    Args:
        counts: [V] how often each token is there.

    Raises:
        ValueError: counts that are no numbers of at least 0, one for each token.

    Example:
        >>> token_frequencies(torch.tensor([3, 0, 0])).tolist()
        [0.6666666666666666, 0.16666666666666666, 0.16666666666666666]
    """
    check_tensor("token_frequencies", "counts", counts)
    if counts.ndim != 1 or not bool((counts.double().isfinite() & (counts >= 0)).all()):
        raise ValueError(
            f"token_frequencies: counts of shape {list(counts.shape)} came; give a number of at least 0 for each token."
        )
    return (counts.double() + 1) / (counts.double().sum() + len(counts))


def dc_pdd_score(
    logps: Float[Tensor, "batch tokens"],
    tokens: Int[Tensor, "batch tokens"],
    frequencies: Float[Tensor, " vocabulary"],
    mask: Shaped[Tensor, "batch tokens"] | None = None,
    clip: float = 0.01,
) -> Float[Tensor, " batch"]:
    """DC-PDD: the divergence of the model's probabilities from the tokens' frequencies, as a calibrated score.

    ``mean_i min(p_i log 1/f_i, a)`` over the first occurrence of each token in a text: a probable token says more, the
    rarer it is elsewhere.

    Args:
        logps: [B, T] log-probabilities of the tokens.
        tokens: [B, T] int64 which tokens these are; anything where the mask is 0.
        frequencies: [V] above 0, how frequent each token is in a reference corpus; see `token_frequencies`.
        mask: [B, T] other than 0 for a token that counts; None: all.
        clip: a, the most that a token says, above 0.

    Returns:
        [B]; NaN for a text without a token.

    Raises:
        ValueError: shapes or dtypes that do not fit; tokens beyond the frequencies, frequencies of 0; a clip of 0 or
            less.

    Source:
        Zhang, Zhang, Lu, Chen, Fan, Zhang, Gao, 2024, "Pretraining Data Detection for Large Language Models: A
        Divergence-based Calibration Method", arXiv:2409.14781, and its code zhang-wei-chao/DC-PDD, which stores the
        negative.

    Example:
        >>> logps, tokens, frequencies = torch.full((1, 2), -1.0), torch.tensor([[0, 0]]), torch.tensor([0.5, 0.5])
        >>> round(dc_pdd_score(logps, tokens, frequencies, clip=9.0).item(), 4)  # e^-1 log 2
        0.255
    """
    check_number("dc_pdd_score", "clip", clip, above=0)
    given = completions("dc_pdd_score", "logps", logps, mask)
    kept = given.kept
    if tokens.shape != logps.shape or tokens.is_floating_point():
        raise ValueError(
            f"dc_pdd_score: tokens of shape {list(tokens.shape)} and {tokens.dtype} came with logps of shape "
            f"{list(logps.shape)}; give the id of each token."
        )
    if frequencies.ndim != 1 or not bool(((frequencies > 0) & (frequencies <= 1)).all()):
        raise ValueError("dc_pdd_score: frequencies came that are not above 0 and at most 1; see token_frequencies.")
    outside = kept & ((tokens < 0) | (tokens >= len(frequencies)))
    if bool(outside.any()):
        raise ValueError(
            f"dc_pdd_score: the token {int(tokens[outside][0])} came with frequencies of {len(frequencies)} tokens; "
            "give one for each token, and a mask of those that count."
        )
    told = -frequencies.to(given.logps).log()[tokens.masked_fill(~kept, 0)]
    return _nan_mean((given.logps.exp() * told).clamp(max=clip), first_occurrences(tokens, kept))


def first_occurrences(
    tokens: Int[Tensor, "batch tokens"], kept: Bool[Tensor, "batch tokens"]
) -> Bool[Tensor, "batch tokens"]:
    """Which kept tokens no earlier kept token of their text equals.

    Example:
        >>> first_occurrences(torch.tensor([[5, 3, 5, 3, 1]]), torch.tensor([[False, True, True, True, True]])).tolist()
        [[False, True, True, False, True]]
    """
    values, order = tokens.masked_fill(~kept, -1).sort(dim=1, stable=True)
    new = torch.ones_like(kept)
    new[:, 1:] = values[:, 1:] != values[:, :-1]
    return torch.zeros_like(kept).scatter(1, order, new) & kept


def _mean(given: Completions) -> Float[Tensor, " batch"]:
    return _nan_mean(given.logps, given.kept)


def _nan_mean(values: Float[Tensor, "batch tokens"], kept: Bool[Tensor, "batch tokens"]) -> Float[Tensor, " batch"]:
    return token_mean(values, kept).masked_fill(~kept.any(dim=1), torch.nan)


def _mean_of_lowest(
    values: Float[Tensor, "batch tokens"], kept: Bool[Tensor, "batch tokens"], share: float
) -> Float[Tensor, " batch"]:
    """The mean over the lowest share of each row's tokens that count, at least one; NaN without a token."""
    lowest = values.masked_fill(~kept, torch.inf).sort(dim=1).values
    # In whole numbers: in float32 a share of 0.13 of 900 is 116.
    part = Fraction(str(float(share))).limit_denominator(10**6)
    number = (kept.sum(dim=1) * part.numerator // part.denominator).clamp(min=1).unsqueeze(1)
    places = torch.arange(values.shape[1], device=values.device)
    return _nan_mean(lowest, (places < number) & (places < kept.sum(dim=1, keepdim=True)))
