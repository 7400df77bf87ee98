"""What is timed of distillation between two heads: each objective fused, on held logits, and by Liger."""

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
    KD,
    NKD,
    ABDivergence,
    ForwardKL,
    GeneralizedJSD,
    ReverseKL,
    SkewKL,
    SkewRKL,
    SymmetricKL,
    TotalVariation,
    linear_distillation,
)
from lightning_losses.kernels.linear_distillation import TeacherLogits, TopKLogits
from lightning_losses.losses.base import Loss

SIZES = {"large": Size(4096, 2048, 128256, 4096), "small": Size(8192, 2048, 32768, 2048)}
OBJECTIVES: dict[str, Loss] = {
    "KD": KD(2.0),
    "JSD": GeneralizedJSD(),
    "NKD": NKD(),
    "reverse KL": ReverseKL(2.0),
    "forward KL": ForwardKL(2.0),
    "symmetric KL": SymmetricKL(),
    "skew KL": SkewKL(),
    "skew reverse KL": SkewRKL(),
    "total variation": TotalVariation(),
    "AB": ABDivergence(),
}
UNFUSED, OURS, COMPILED_PEER = "unfused", "ours", "Liger, chunked, compiled"
WITHOUT_HARD = "ours, without hard labels"


def unfused(loss: Callable[..., Tensor]) -> Forward:
    """An objective on both heads' logits."""

    def forward(o: Operands) -> Tensor:
        with torch.no_grad():
            teacher_logits = F.linear(o.teacher_hidden, o.teacher_weight)
        return loss(F.linear(o.hidden, o.weight), teacher_logits, o.target)

    return forward


def kd_of_torch(logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
    """KD at temperature 2 by torch's own functions in float32."""
    student, teacher = (F.log_softmax(scores.float() / 2, dim=-1) for scores in (logits, teacher_logits))
    return 4 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def fused(o: Operands, objective: Loss, **options: Any) -> Tensor:
    """The same without logits."""
    heads = o.hidden, o.weight, o.teacher_hidden, o.teacher_weight, o.target
    return linear_distillation(*heads, objective=objective, **options).loss


def fused_with_cache(o: Operands, entries: int = 64) -> Tensor:
    """KD against a cache of the teacher's largest logits, here of random classes."""
    generator = torch.Generator(o.hidden.device).manual_seed(1)
    shape = len(o.hidden), min(entries, len(o.weight))
    values = torch.randn(shape, generator=generator, device=o.hidden.device)
    start = torch.randint(len(o.weight), (len(o.hidden), 1), generator=generator, device=o.hidden.device)
    classes = (start + torch.arange(shape[1], device=o.hidden.device)) % len(o.weight)
    return linear_distillation(o.hidden, o.weight, TopKLogits(values, classes), None, o.target, objective=KD(2.0)).loss


def fused_with_logits(o: Operands) -> Tensor:
    """KD against the teacher's logits, which are held."""
    with torch.no_grad():
        teacher = TeacherLogits(F.linear(o.teacher_hidden, o.teacher_weight))
    return linear_distillation(o.hidden, o.weight, teacher, None, o.target, objective=KD(2.0)).loss


def with_hard_labels(logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
    """KD and cross-entropy on the targets."""
    return kd_of_torch(logits, teacher_logits, target) + F.cross_entropy(logits.float(), target)


def objective_case(kind: str, name: str, size: Size) -> Case:
    """One objective in bfloat16."""
    objective = OBJECTIVES[kind]
    entries = [
        Entry(UNFUSED, unfused(kd_of_torch if kind == "KD" else objective)),
        Entry(OURS, partial(fused, objective=objective)),
        Entry("ours, chunk=2048", partial(fused, objective=objective, chunk=2048)),
    ]
    if kind == "KD":
        entries.append(Entry("ours, the teacher's logits held", fused_with_logits))
        entries.append(Entry("ours, top-64 cache", fused_with_cache, checked=False))
    if kind == "JSD":
        entries.append(Entry(COMPILED_PEER, peers.liger_jsd, checked=False))
    return Case(
        f"{kind} {name}",
        f"Distillation, {kind}",
        size,
        torch.bfloat16,
        tuple(entries),
        unfused(objective),
        ignored=False,
    )


def hard_labels_case(name: str, size: Size) -> Case:
    """KD with hard labels in the same pass."""
    entries = (
        Entry(UNFUSED, unfused(with_hard_labels)),
        Entry("ours, hard_weight=1", partial(fused, objective=KD(2.0), hard_weight=1.0)),
        Entry(WITHOUT_HARD, partial(fused, objective=KD(2.0)), checked=False),
    )

    def exact(logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
        return KD(2.0)(logits, teacher_logits, target) + F.cross_entropy(logits, target)

    title = "Distillation, KD and hard labels"
    return Case(f"hard labels {name}", title, size, torch.bfloat16, entries, unfused(exact), ignored=False)
