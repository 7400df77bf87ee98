"""What a classifier's head says of each token of a text, in chunks, without its logits.

Preferences, policy gradients, unlearning and audits of language models all read this record.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.kernels.cross_entropy.problem import Impl, LinearCrossEntropyValue
from lightning_losses.kernels.head import Head
from lightning_losses.kernels.inputs import autocast, check_chunk, check_classes_of_head, check_head, shifted
from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from lightning_losses.kernels.products import cuda_chunk
from lightning_losses.kernels.terms import Terms, statistics_dtype
from lightning_losses.kernels.traced import Returned, traceable
from lightning_losses.numerics.checks import check_number, check_temperature
from lightning_losses.numerics.products import spans

_NAME = "token_record"
# Scores that a CPU holds at once, if not told otherwise.
_SCORES = 2**22


class TokenRecord(NamedTuple):
    """What the head says of each token; 0 where a token is ignored.

    Attributes:
        logps: [..., T] log-probability of each token, differentiable.
        kept: [..., T] which tokens count.
        entropies: [..., T] entropy of the distribution in nats, differentiable.
        log_collisions: [..., T] ``log sum_v p_v^2``, the log-probability that two draws are alike; constant.
        variances: [..., T] the variance of ``log p`` under p; its mean is minus the entropy; constant.
        ranks: [..., T] int64 how many entries of the vocabulary have a higher score: 0 for a hit; constant.
    """

    logps: Float[Tensor, "*tokens"]
    kept: Bool[Tensor, "*tokens"]
    entropies: Float[Tensor, "*tokens"] | None = None
    log_collisions: Float[Tensor, "*tokens"] | None = None
    variances: Float[Tensor, "*tokens"] | None = None
    ranks: Int[Tensor, "*tokens"] | None = None


def token_record(
    hidden: Float[Tensor, "*tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, "*tokens"],
    bias: Float[Tensor, " vocabulary"] | None = None,
    *,
    ignore_index: int = -100,
    shift: int | bool = 0,
    softcap: float | None = None,
    temperature: float = 1.0,
    entropies: bool = False,
    log_collisions: bool = False,
    variances: bool = False,
    ranks: bool = False,
    chunk: int | None = None,
    impl: Impl = "auto",
) -> TokenRecord:
    """The record of a text's tokens under the head ``hidden @ weight.T + bias``, whose logits are never held whole.

    Log-probabilities and entropies go through `linear_cross_entropy`. The constant statistics cost a further product
    where a gradient is wanted; where none is, everything comes from one product. They are of scores in the head's
    dtype: in bfloat16 those round at the third digit, and log-probabilities that come with them do too.

    Args:
        hidden: [..., T, D] hidden states.
        weight: [V, D] the head's weight.
        target: [..., T] int64 token ids.
        bias: [V], or None; -inf masks an entry.
        ignore_index: tokens with this target do not count: prompt, padding, the first token of a packed document.
        shift: k: ``hidden[..., :-k, :]`` is scored against ``target[..., k:]``; True is 1, for next-token prediction.
        softcap: s: scores become ``s tanh(l / s)``; None for none.
        temperature: τ, above 0: the divisor of the (softcapped) scores.
        entropies: whether entropies are wanted.
        log_collisions: whether ``log sum_v p_v^2`` is wanted.
        variances: whether the variance of ``log p`` is wanted.
        ranks: whether ranks are wanted.
        chunk: tokens of which scores are held at once for the constant statistics; chosen by default.
        impl: of `linear_cross_entropy`.

    Returns:
        The record, of [..., T - shift] tokens; float32, or float64 for float64. What was not asked for is None.

    Raises:
        ValueError: shapes, dtypes or ranges that do not fit.

    Example:
        >>> record = token_record(torch.eye(2, 4), torch.ones(5, 4), torch.tensor([[1, -100]])[0], entropies=True)
        >>> record.logps, record.entropies  # -log 5 and log 5
        (tensor([-1.6094,  0.0000]), tensor([1.6094, 0.0000]))
    """
    if not torch.compiler.is_compiling():
        # A compiled graph checks numbers when it runs; while it is traced, one that changes has no value.
        _check_numbers(softcap, temperature)
    check_chunk(_NAME, chunk)
    check_head(_NAME, hidden, weight, target, bias)
    check_classes_of_head(_NAME, len(weight))
    hidden, target = shifted(_NAME, hidden, target, shift)
    kept = target != ignore_index
    trained = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias)
    )
    constant = {"log_collisions": log_collisions, "variances": variances, "ranks": ranks}
    further = _Statistics()
    if any(constant.values()):
        asked = constant if trained else {"logps": True, "entropies": entropies, **constant}
        further = _statistics(
            hidden.detach(),
            weight.detach(),
            target,
            None if bias is None else bias.detach(),
            asked=tuple([name for name in _Statistics._fields if asked.get(name, False)]),
            ignore_index=ignore_index,
            softcap=softcap,
            temperature=temperature,
            chunk=chunk,
        )
    constants = further.log_collisions, further.variances, further.ranks
    if further.logps is not None:
        return TokenRecord(further.logps, kept, further.entropies, *constants)
    value = linear_cross_entropy(
        hidden,
        weight,
        target,
        bias,
        ignore_index=ignore_index,
        softcap=softcap,
        temperature=temperature,
        reduction="none",
        return_entropy=entropies,
        impl=impl,
    )
    loss, entropy = (value.loss, value.entropy) if isinstance(value, LinearCrossEntropyValue) else (value, None)
    return TokenRecord((-loss).masked_fill(~kept, 0.0), kept, entropy, *constants)


def _check_numbers(softcap: float | None, temperature: float) -> None:
    check_temperature(_NAME, temperature)
    if softcap is not None:
        check_number(_NAME, "softcap", softcap, above=0)


class _Statistics(NamedTuple):
    """The statistics that scores give at once, as a `TokenRecord` has them."""

    logps: Float[Tensor, "*tokens"] | None = None
    entropies: Float[Tensor, "*tokens"] | None = None
    log_collisions: Float[Tensor, "*tokens"] | None = None
    variances: Float[Tensor, "*tokens"] | None = None
    ranks: Int[Tensor, "*tokens"] | None = None


def _returned(arguments: dict[str, Any]) -> Returned:
    asked = arguments["asked"]
    return Returned(_Statistics, asked, (True,) * len(asked), tuple(arguments["target"].shape), ("ranks",))


@traceable(_returned)
def _statistics(
    hidden: Float[Tensor, "*tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, "*tokens"],
    bias: Float[Tensor, " vocabulary"] | None,
    *,
    asked: tuple[str, ...],
    ignore_index: int,
    softcap: float | None,
    temperature: float,
    chunk: int | None,
) -> _Statistics:
    """The statistics asked for, without gradients, from scores of one chunk of tokens at a time."""
    _check_numbers(softcap, temperature)
    kept, terms = target != ignore_index, Terms(len(weight), softcap=softcap, temperature=temperature)
    hidden, weight, bias = autocast(hidden, weight, bias)
    with torch.autocast(hidden.device.type, enabled=False):
        rows, counted, labels = hidden.reshape(-1, hidden.shape[-1]), kept.flatten(), target.flatten()
        head, dtype = Head(weight, bias, terms), statistics_dtype(weight)
        record = {name: rows.new_zeros(len(rows), dtype=torch.int64 if name == "ranks" else dtype) for name in asked}
        if chunk is None:
            on_cpu = weight.device.type == "cpu"
            # On a GPU each chunk reads the whole head from its memory.
            chunk = max(_SCORES // len(weight), 1) if on_cpu else cuda_chunk(len(rows), len(weight), 4, weight.device)
        for part in spans(len(rows), chunk) if len(rows) else ():
            label = torch.where(counted[part], labels[part], 0)
            # An ignored token may hold NaN.
            given = torch.where(counted[part].unsqueeze(1), rows[part], 0.0)
            scores, _ = head.scores(given.to(head.dtype), slice(None), full=True)
            for name, values in _measured(scores.sub_(scores.logsumexp(dim=1, keepdim=True)), label, asked).items():
                record[name][part] = torch.where(counted[part], values, 0)
        return _Statistics(**{name: values.view(kept.shape) for name, values in record.items()})


def _measured(
    log_p: Float[Tensor, "rows vocabulary"], label: Int[Tensor, " rows"], wanted: tuple[str, ...]
) -> dict[str, Tensor]:
    """The statistics of some tokens from their distributions, by name."""
    own = log_p.gather(1, label.unsqueeze(1))
    measured = {"logps": own.squeeze(1)} if "logps" in wanted else {}
    if "entropies" in wanted or "variances" in wanted:
        # An entry of probability 0 adds nothing, though its log-probability is -inf.
        finite, p = torch.where(log_p == -torch.inf, 0.0, log_p), log_p.exp()
        mean = (p * finite).sum(dim=1)
        if "entropies" in wanted:
            measured["entropies"] = -mean
        if "variances" in wanted:
            measured["variances"] = (p * (finite - mean.unsqueeze(1)).square()).sum(dim=1)
    if "log_collisions" in wanted:
        measured["log_collisions"] = (2 * log_p).logsumexp(dim=1)
    if "ranks" in wanted:
        measured["ranks"] = (log_p > own).sum(dim=1)
    return measured
