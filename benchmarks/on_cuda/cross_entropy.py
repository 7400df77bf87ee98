"""What is timed of cross-entropy: the mean, per token, row functions, other dtypes, and over N and V."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.on_cuda import peers
from benchmarks.on_cuda.measurement import Case, Entry
from benchmarks.on_cuda.operands import Forward, Operands, Size
from lightning_losses import (
    Focal,
    StableMaxCrossEntropy,
    chunked_head,
    linear_cross_entropy,
    linear_stablemax_cross_entropy,
    vocab_parallel_cross_entropy,
)

SIZES = {"large": Size(8192, 4096, 128256), "small": Size(8192, 2048, 32768)}
FLOAT32 = Size(4096, 1024, 32768)
PLAIN, OURS, COMPILED = "plain, float32 logits", "ours", "torch.compile of plain"
ALONE, BY_ROW = "ours, cross-entropy alone", "ours, row_function="

OfLogits = Callable[[Tensor, Operands], Tensor]
FOCAL, TEMPERATURE = Focal(gamma=2.0), 0.7


def mean(logits: Tensor, o: Operands) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(logits, o.target)


def per_token(logits: Tensor, o: Operands) -> Tensor:
    """Each token's, with a gradient of its own."""
    return (F.cross_entropy(logits, o.target, reduction="none") * o.upstream).sum()


def with_lse(logits: Tensor, o: Operands) -> Tensor:
    """The mean, and the logsumexps of the tokens that count."""
    return mean(logits, o) + (logits.logsumexp(dim=1) * o.upstream * (o.target != -100)).sum()


def with_entropy(logits: Tensor, o: Operands) -> Tensor:
    """Each token's, and a tenth of its entropy, at a temperature."""
    logits = logits / TEMPERATURE
    log_s = logits.log_softmax(dim=1)
    entropy = -(log_s.exp() * log_s).sum(dim=1) * (o.target != -100)
    return per_token(logits, o) + 0.1 * (entropy * o.upstream).sum()


def focal(logits: Tensor, o: Operands) -> Tensor:
    """The library's own, on logits."""
    return FOCAL(logits, o.target)


def generalized(logits: Tensor, o: Operands) -> Tensor:
    """Generalized cross-entropy with q = 0.7."""
    return _power(F.cross_entropy(logits, o.target, reduction="none")).sum() / (o.target != -100).sum()


def _power(losses: Tensor) -> Tensor:
    return (1 - (-0.7 * losses).exp()) / 0.7


def unfused(loss: OfLogits, raised: bool = True) -> Forward:
    """A loss of logits that are held; in float32 if `raised`."""

    def forward(o: Operands) -> Tensor:
        logits = F.linear(o.hidden, o.weight)
        return loss(logits.float() if raised else logits, o)

    return forward


def compiled(forward: Forward, on_card: bool) -> Forward:
    """By `torch.compile`; where there is no card, traced alone."""
    return torch.compile(forward, dynamic=False, backend="inductor" if on_card else "eager")


def fused(o: Operands, **options: Any) -> Tensor:
    """The fused mean."""
    return linear_cross_entropy(o.hidden, o.weight, o.target, **options)


def fused_split(o: Operands) -> Tensor:
    """The fused mean of a head whose vocabulary lies on one process."""
    return vocab_parallel_cross_entropy(o.hidden, o.weight, o.target).loss


def fused_per_token(o: Operands, **options: Any) -> Tensor:
    """The fused loss of each token."""
    return (linear_cross_entropy(o.hidden, o.weight, o.target, reduction="none", **options) * o.upstream).sum()


def fused_with_lse(o: Operands) -> Tensor:
    """The fused mean with logsumexps."""
    value = linear_cross_entropy(o.hidden, o.weight, o.target, return_lse=True)
    return value.loss + (value.lse * o.upstream).sum()


def fused_with_entropy(o: Operands, **options: Any) -> Tensor:
    """The fused loss of each token with its entropy."""
    asked = {"reduction": "none", "return_entropy": True, "temperature": TEMPERATURE}
    value = linear_cross_entropy(o.hidden, o.weight, o.target, **asked, **options)
    return ((value.loss + 0.1 * value.entropy) * o.upstream).sum()


def fused_focal(o: Operands) -> Tensor:
    """The library's focal loss of a head."""
    return chunked_head(FOCAL, o.hidden, o.weight, o.target)


def focal_of_row(losses: Tensor) -> Tensor:
    """Focal loss with γ = 2 as a function of cross-entropy."""
    return (-torch.expm1(-losses)).square() * losses


def generalized_per_token(o: Operands) -> Tensor:
    """Generalized cross-entropy made from each token's fused loss."""
    losses = linear_cross_entropy(o.hidden, o.weight, o.target, reduction="none")
    return _power(losses).sum() / (o.target != -100).sum()


def fused_of_half(o: Operands, drop_ignored: bool | None = None) -> Tensor:
    """The fused mean where every second token is ignored."""
    return linear_cross_entropy(o.hidden, o.weight, _half(o.target), drop_ignored=drop_ignored)


def of_half(logits: Tensor, o: Operands) -> Tensor:
    """The mean likewise."""
    return F.cross_entropy(logits, _half(o.target))


def _half(target: Tensor) -> Tensor:
    place = torch.arange(len(target), device=target.device)
    return target.masked_fill(place % 2 == 0, -100)


def stablemax(logits: Tensor, o: Operands) -> Tensor:
    """StableMax cross-entropy."""
    precise = "float64" if logits.dtype == torch.float64 else "float32"
    return StableMaxCrossEntropy(compute_dtype=precise)(logits, o.target)


def fused_stablemax(o: Operands) -> Tensor:
    """The same of a head."""
    return linear_stablemax_cross_entropy(o.hidden, o.weight, o.target)


def mean_case(name: str, size: Size, on_card: bool) -> Case:
    """The mean in bfloat16, against every peer."""
    entries = (
        Entry(PLAIN, unfused(mean)),
        Entry(OURS, fused),
        Entry(COMPILED, compiled(unfused(mean), on_card), checked=False),
        Entry("plain, bfloat16 logits", unfused(mean, raised=False)),
        *(Entry(f"ours, chunk={chunk}", partial(fused, chunk=chunk)) for chunk in (1024, 2048, 4096)),
        Entry("ours, accum_dtype=float32", partial(fused, accum_dtype=torch.float32)),
        Entry("ours, vocab_parallel, one process", fused_split),
        Entry("Liger, Triton", peers.liger),
        Entry("torch, chunked", peers.torch_chunked),
        Entry("CCE", peers.cut),
        Entry("CCE, unfiltered", peers.cut_exact),
        Entry("Liger, CuTe DSL", peers.liger_sm90),
        Entry("QuACK, chunked", peers.quack),
        *(Entry(f'ours, impl="{impl}"', partial(fused, impl=impl)) for impl in ("torch", "liger", "cce", "quack")),
    )
    return Case(f"mean {name}", "Cross-entropy, mean", size, torch.bfloat16, entries, unfused(mean, raised=False))


def per_token_case(name: str, size: Size) -> Case:
    """Each token's loss in bfloat16."""
    entries = (
        Entry(PLAIN, unfused(per_token)),
        Entry('ours, reduction="none"', fused_per_token),
        Entry("torch, chunked", peers.torch_chunked_per_token),
        Entry("CCE", peers.cut_per_token),
        Entry("Liger, scaled", peers.liger_per_token),
    )
    exact = unfused(per_token, raised=False)
    return Case(f"per token {name}", "Cross-entropy, per token", size, torch.bfloat16, entries, exact)


def with_lse_case(name: str, size: Size) -> Case:
    """The mean and differentiable logsumexps."""
    entries = Entry(PLAIN, unfused(with_lse)), Entry("ours, return_lse=True", fused_with_lse)
    exact = unfused(with_lse, raised=False)
    return Case(f"logsumexp {name}", "Mean and logsumexps", size, torch.bfloat16, entries, exact)


def with_entropy_case(name: str, size: Size) -> Case:
    """Each token's loss and entropy."""
    entries = (
        Entry(PLAIN, unfused(with_entropy)),
        Entry("ours, return_entropy=True", fused_with_entropy),
        Entry("Liger, scaled", partial(peers.liger_with_entropy, temperature=TEMPERATURE)),
        Entry('ours, impl="liger"', partial(fused_with_entropy, impl="liger")),
    )
    exact = unfused(with_entropy, raised=False)
    return Case(f"entropy {name}", "Per token with entropy", size, torch.bfloat16, entries, exact)


def row_function_cases(name: str, size: Size) -> tuple[Case, Case]:
    """Functions of a row's cross-entropy, beside fused cross-entropy itself."""
    alone = Entry(ALONE, fused, checked=False)
    of_focal = (
        Entry(PLAIN, unfused(focal)),
        alone,
        Entry(BY_ROW, partial(fused, row_function=focal_of_row)),
        Entry("ours, Focal by chunked_head", fused_focal),
    )
    of_power = (
        Entry(PLAIN, unfused(generalized)),
        alone,
        Entry(BY_ROW, partial(fused, row_function=_power)),
        Entry('ours, by reduction="none"', generalized_per_token),
    )
    exact = (unfused(loss, raised=False) for loss in (focal, generalized))
    return (
        Case(f"focal {name}", "Focal loss", size, torch.bfloat16, of_focal, next(exact)),
        Case(f"gce {name}", "Generalized cross-entropy", size, torch.bfloat16, of_power, next(exact)),
    )


def ignored_case(name: str, size: Size) -> Case:
    """The mean where half of the tokens are ignored: kept, or dropped at the price of a wait."""
    entries = (
        Entry(PLAIN, unfused(of_half)),
        Entry("ours, kept", fused_of_half),
        Entry("ours, drop_ignored=True", partial(fused_of_half, drop_ignored=True)),
    )
    exact = unfused(of_half, raised=False)
    return Case(f"ignored {name}", "Mean of half of the tokens", size, torch.bfloat16, entries, exact)


def stablemax_case(name: str, size: Size) -> Case:
    """StableMax cross-entropy."""
    entries = Entry(PLAIN, unfused(stablemax)), Entry(OURS, fused_stablemax)
    exact = unfused(stablemax, raised=False)
    return Case(f"stablemax {name}", "StableMax cross-entropy", size, torch.bfloat16, entries, exact)


def dtype_case(name: str, size: Size, dtype: torch.dtype, on_card: bool, tf32: bool = False) -> Case:
    """The mean in another dtype."""
    entries = (
        Entry(PLAIN, unfused(mean)),
        Entry(OURS, fused),
        Entry(COMPILED, compiled(unfused(mean), on_card), checked=False),
        Entry("Liger, Triton", peers.liger),
        Entry("torch, chunked", peers.torch_chunked),
    )
    exact = unfused(mean, raised=False)
    return Case(name, "Cross-entropy, mean", size, dtype, entries, exact, tf32)


def over_sizes() -> tuple[Case, ...]:
    """The mean over N and over V."""
    sizes = {f"over N {n}": Size(n, 2048, 32768) for n in (2048, 4096, 8192, 16384)}
    sizes |= {f"over V {v}": Size(4096, 2048, v) for v in (16384, 32768, 65536, 131072)}
    entries = (
        Entry(PLAIN, unfused(mean)),
        Entry(OURS, fused),
        Entry('ours, reduction="none"', fused_per_token),
        Entry("Liger, Triton", peers.liger),
    )
    exact = unfused(mean, raised=False)
    return tuple(
        Case(name, "Cross-entropy", size, torch.bfloat16, entries, exact, rounds=3) for name, size in sizes.items()
    )
