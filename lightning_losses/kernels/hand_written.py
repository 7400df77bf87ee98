"""Values and gradients of row-wise losses, written by hand over tiles of scores that they overwrite.

Autograd keeps half a dozen [rows, V] tensors of a chunk; these keep the scores and a tile. Each takes the student's
tiles (and the teacher's), in float32 or float64, and leaves in the student's the gradient of each row's value, up to
the factor that it returns. A value that isn't finite sends the chunk to autograd, which knows masked classes.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.kernels.head import locate
from lightning_losses.kernels.products import exponentiate

Tiles = list[Tensor]


class Outcome(NamedTuple):
    """Each row's value, and the factor that its gradient, left in the student's tiles, still lacks."""

    values: Float[Tensor, " rows"]
    factor: float


Evaluator = Callable[[Any, Tiles, Tiles, Tensor | None], Outcome]
"""Takes the loss, the student's tiles, the teacher's, and the targets."""


def evaluator_of(loss: Any) -> Evaluator | None:
    """The hand-written evaluator of a loss of this library with these settings, or None."""
    kind = type(loss)
    if not kind.__module__.startswith("lightning_losses.losses."):
        return None
    found = {
        "kd": forward_kl,
        "forward_kl": forward_kl,
        "reverse_kl": reverse_kl,
        "generalized_jsd": generalized_jsd,
        "nkd": nkd,
        "cross_entropy": cross_entropy,
        "stablemax_cross_entropy": stablemax,
    }.get(kind.__module__.rpartition(".")[2])
    plain = not getattr(loss, "label_smoothing", 0) and getattr(loss, "class_weight", None) is None
    if not plain or (found is nkd and loss.temperature != 1):
        return None
    return found


def cross_entropy(loss: Any, student: Tiles, teacher: Tiles, target: Tensor | None) -> Outcome:
    """``-log s_y``."""
    assert target is not None
    _log_probabilities(student)
    values = torch.zeros_like(student[0][:, 0])
    for tile, (rows, columns) in zip(student, _hits(student, target), strict=True):
        values[rows] = -tile[rows, columns]
        exponentiate(tile)[rows, columns] -= 1
    return Outcome(values, 1.0)


def forward_kl(loss: Any, student: Tiles, teacher: Tiles, target: Tensor | None) -> Outcome:
    """``sum_k t_k (log t_k - log s_k)``; the gradient is ``s - t``."""
    _soften(loss.temperature, student, teacher)
    _log_probabilities(student)
    _log_probabilities(teacher, floor=True)
    values = torch.zeros_like(student[0][:, 0])
    for s, t in zip(student, teacher, strict=True):
        ratio = t - s
        exponentiate(t)
        values += torch.linalg.vecdot(t, ratio)
        exponentiate(s).sub_(t)
    return _with_temperature(loss, values)


def reverse_kl(loss: Any, student: Tiles, teacher: Tiles, target: Tensor | None) -> Outcome:
    """``sum_k s_k (log s_k - log t_k)``; the gradient is ``s_k (log s_k - log t_k - value)``."""
    _soften(loss.temperature, student, teacher)
    _log_probabilities(student)
    _log_probabilities(teacher)
    values = torch.zeros_like(student[0][:, 0])
    for s, t in zip(student, teacher, strict=True):
        torch.sub(s, t, out=t)
        values += torch.linalg.vecdot(exponentiate(s), t)
    for s, t in zip(student, teacher, strict=True):
        s.mul_(t.sub_(values.unsqueeze(1)))
    return _with_temperature(loss, values)


def generalized_jsd(loss: Any, student: Tiles, teacher: Tiles, target: Tensor | None) -> Outcome:
    """``β KL(t || m) + (1 - β) KL(s || m)``; the gradient is ``(1 - β) s_k (log(s_k / m_k) - KL(s || m))``."""
    beta = loss.beta
    if beta in (0, 1):
        return (reverse_kl if beta else forward_kl)(loss, student, teacher, target)
    _soften(loss.temperature, student, teacher)
    _log_probabilities(student, floor=True)
    _log_probabilities(teacher, floor=True)
    of_teacher = torch.zeros_like(student[0][:, 0])
    of_student = torch.zeros_like(of_teacher)
    tiny = torch.finfo(of_teacher.dtype).tiny
    for s, t in zip(student, teacher, strict=True):
        p, q = exponentiate(s.clone()), exponentiate(t.clone())
        # Where both probabilities underflow they multiply whatever stands for log m by 0.
        log_m = torch.lerp(p, q, beta).clamp_(min=tiny).log_()
        of_teacher += torch.linalg.vecdot(q, t.sub_(log_m))
        s.sub_(log_m).mul_(p)
        of_student += s.sum(dim=1)
        t.copy_(p)
    for s, t in zip(student, teacher, strict=True):
        s.sub_(t.mul_(of_student.unsqueeze(1)))
    values = beta * of_teacher + (1 - beta) * of_student
    outcome = _with_temperature(loss, values)
    return outcome._replace(factor=outcome.factor * (1 - beta))


def nkd(loss: Any, student: Tiles, teacher: Tiles, target: Tensor | None) -> Outcome:
    """``-t_y log s_y - γ sum_k t̂_k log ŝ_k`` at temperature 1, the second over the classes but for the target."""
    assert target is not None
    found = _hits(student, target)
    student_y, teacher_y = (torch.zeros_like(student[0][:, 0]) for _ in range(2))
    for tiles, picked in ((student, student_y), (teacher, teacher_y)):
        for tile, (rows, columns) in zip(tiles, found, strict=True):
            picked[rows] = tile[rows, columns]
            tile[rows, columns] = -torch.inf
    student_others, teacher_others = _log_probabilities(student, floor=True), _log_probabilities(teacher, floor=True)
    log_s = student_y - torch.logaddexp(student_others, student_y)
    log_rest = student_others - torch.logaddexp(student_others, student_y)
    t_y = (teacher_y - torch.logaddexp(teacher_others, teacher_y)).exp()
    others = torch.zeros_like(log_s)
    share = (t_y * log_rest.exp() + loss.gamma).unsqueeze(1)
    for s, t, (rows, columns) in zip(student, teacher, found, strict=True):
        exponentiate(t)
        others -= torch.linalg.vecdot(t, s)
        exponentiate(s).mul_(share).sub_(t, alpha=loss.gamma)
        s[rows, columns] = -(t_y * log_rest.exp())[rows]
    return Outcome(loss.gamma * others - t_y * log_s, 1.0)


def stablemax(loss: Any, student: Tiles, teacher: Tiles, target: Tensor | None) -> Outcome:
    """``log sum_k s(z_k) - log s(z_y)``, ``s(z) = 1 + z`` or ``1 / (1 - z)``; s' / s is ``1 / (1 + |z|)``."""
    assert target is not None
    dtype = getattr(torch, loss.compute_dtype)
    found = _hits(student, target)
    total = torch.zeros_like(student[0][:, 0], dtype=dtype)
    picked = torch.zeros_like(total)
    for tile, (rows, columns) in zip(student, found, strict=True):
        s, slope = _stable(tile.to(dtype))
        total += s.sum(dim=1)
        picked[rows] = s[rows, columns]
    for tile, (rows, columns) in zip(student, found, strict=True):
        s, slope = _stable(tile.to(dtype))
        s.div_(total.unsqueeze(1))
        s[rows, columns] -= 1
        tile.copy_(s.mul_(slope))
    return Outcome(total.log() - picked.log(), 1.0)


def _stable(scores: Tensor) -> tuple[Tensor, Tensor]:
    size = scores.abs().add_(1)
    slope = size.reciprocal()
    return torch.where(scores >= 0, size, slope), slope


def _soften(temperature: float, *networks: Tiles) -> None:
    if temperature != 1:
        for tiles in networks:
            for tile in tiles:
                tile.div_(temperature)


def _with_temperature(loss: Any, values: Tensor) -> Outcome:
    # KD always has the factor τ²; its relatives where asked. The gradient by the unsoftened scores has 1/τ.
    square = loss.temperature**2 if getattr(loss, "tau_squared", True) else 1.0
    return Outcome(square * values, square / loss.temperature)


def _log_probabilities(tiles: Tiles, floor: bool = False) -> Float[Tensor, " rows"]:
    """Scores as log-probabilities in place; with `floor`, of classes without probability as -1e4. Gives the lse."""
    largest = torch.stack([tile.amax(dim=1) for tile in tiles]).amax(dim=0)
    total = torch.zeros_like(largest)
    for tile in tiles:
        total += exponentiate(tile - largest.unsqueeze(1)).sum(dim=1)
    lse = largest + total.log()
    for tile in tiles:
        tile.sub_(lse.unsqueeze(1))
        if floor:
            # exp(-1e4) is 0 in every dtype, and 0 times -1e4 is 0 where 0 times -inf is not a number.
            tile.clamp_(min=-1e4)
    return lse


def _hits(tiles: Tiles, target: Tensor) -> list[tuple[Tensor, Tensor]]:
    ends = itertools.accumulate(tile.shape[1] for tile in tiles)
    return locate(target, [slice(end - tile.shape[1], end) for end, tile in zip(ends, tiles, strict=True)])
