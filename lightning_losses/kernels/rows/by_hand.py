"""Hand-written values and gradients of row-wise losses, over tiles of scores that they overwrite.

Autograd keeps half a dozen [rows, V] tensors of a chunk; these keep the scores and one tile. There are three passes:
exponentials are summed when a tile is computed, a second pass gives the values, and the gradient of a tile is completed
just before the products use it, while the tile is in the cache. All computations are in float32 or float64. If a value
isn't finite, autograd evaluates the chunk, because it handles masked classes.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.head import locate
from lightning_losses.losses.base import Loss
from lightning_losses.losses.classification.stablemax_cross_entropy import StableMaxCrossEntropy
from lightning_losses.losses.distillation.divergences.forward_kl import ForwardKL
from lightning_losses.losses.distillation.divergences.generalized_jsd import GeneralizedJSD
from lightning_losses.losses.distillation.divergences.kd import KD
from lightning_losses.losses.distillation.divergences.reverse_kl import ReverseKL
from lightning_losses.losses.distillation.logits.nkd import NKD
from lightning_losses.losses.margins.arcface import ArcFace
from lightning_losses.losses.margins.cosface import CosFace
from lightning_losses.numerics.products import exponentiate

Tiles = list[Tensor]


class Chunk(NamedTuple):
    """The rows that are evaluated together; their scores come in tiles of the vocabulary, and may be overwritten."""

    student: Iterator[Float[Tensor, "rows tile"]]
    teacher: Iterator[Float[Tensor, "rows tile"]]
    target: Int[Tensor, " rows"] | None
    entries: list[slice]


class Outcome(NamedTuple):
    """The result of evaluating a chunk.

    Attributes:
        values: the value of each row.
        tiles: the gradient with respect to the student's scores, before `factor` and `complete`.
        factor: the missing factor of the gradient.
        complete: completes the gradient of a tile, given by its number, in place; None if nothing is missing.
    """

    values: Float[Tensor, " rows"]
    tiles: Tiles
    factor: float = 1.0
    complete: Callable[[int], None] | None = None


class ByHand(NamedTuple):
    """The hand-written evaluation of a class of losses.

    Attributes:
        evaluate: the function that evaluates a chunk.
        suits: whether it supports an instance's settings.
        everywhere: whether it is also right for masked classes, so that values need no check. Then it also serves on a
            GPU, where a check would synchronise.
    """

    evaluate: Callable[[Any, Chunk], Outcome]
    suits: Callable[[Any], bool] = lambda loss: True
    everywhere: bool = False


def cross_entropy(loss: Any, chunk: Chunk) -> Outcome:
    """``-log s_y``."""
    hits = _hits(chunk)
    student = _scored(chunk.student, hits=hits)
    lse = torch.logaddexp(student.lse, student.picked)

    def complete(number: int) -> None:
        tile, (rows, columns) = student.tiles[number], hits[number]
        exponentiate(tile.sub_(lse.unsqueeze(1)))
        # s_y - 1, without cancellation for confident rows.
        tile[rows, columns] = -(student.lse - lse).exp()[rows]

    return Outcome(torch.logaddexp(student.lse - student.picked, torch.zeros_like(lse)), student.tiles, 1.0, complete)


def margin_cross_entropy(loss: Any, chunk: Chunk) -> Outcome:
    """Cross-entropy of scaled scores with another one, ``g(c_y)``, for the target's; its gradient has the factor g'."""
    hits = _hits(chunk)
    student = _scored(chunk.student, 1 / loss.scale, hits=hits)
    with torch.enable_grad():
        cosine = student.picked.detach().requires_grad_()
        moved = loss.with_margin(cosine)
        (slope,) = torch.autograd.grad(moved.sum(), cosine)
    own = loss.scale * moved.detach()
    lse = torch.logaddexp(student.lse, own)

    def complete(number: int) -> None:
        tile, (rows, columns) = student.tiles[number], hits[number]
        exponentiate(tile.mul_(loss.scale).sub_(lse.unsqueeze(1)))
        # s_y - 1, without cancellation for confident rows.
        tile[rows, columns] = -(slope * (student.lse - lse).exp())[rows]

    values = torch.logaddexp(student.lse - own, torch.zeros_like(lse))
    return Outcome(values, student.tiles, loss.scale, complete)


def forward_kl(loss: Any, chunk: Chunk) -> Outcome:
    """``sum_k t_k (log t_k - log s_k)``; the gradient is ``s - t``."""
    student, teacher = (_scored(scores, loss.temperature) for scores in (chunk.student, chunk.teacher))
    values = torch.zeros_like(student.lse)
    room = torch.empty_like(student.tiles[0])
    for s, t in zip(student.tiles, teacher.tiles, strict=True):
        student.normalize(s)
        teacher.normalize(t, floor=True)
        ratio = torch.sub(t, s, out=_within(room, s))
        exponentiate(t)
        values += torch.linalg.vecdot(t, ratio)
        exponentiate(s).sub_(t)
    return _with_temperature(loss, values, student.tiles)


def reverse_kl(loss: Any, chunk: Chunk) -> Outcome:
    """``sum_k s_k (log s_k - log t_k)``; the gradient is ``s_k (log s_k - log t_k - value)``."""
    student, teacher = (_scored(scores, loss.temperature) for scores in (chunk.student, chunk.teacher))
    values = torch.zeros_like(student.lse)
    for s, t in zip(student.tiles, teacher.tiles, strict=True):
        student.normalize(s)
        teacher.normalize(t)
        torch.sub(s, t, out=t)
        values += torch.linalg.vecdot(exponentiate(s), t)

    def complete(number: int) -> None:
        student.tiles[number].mul_(teacher.tiles[number].sub_(values.unsqueeze(1)))

    return _with_temperature(loss, values, student.tiles, complete=complete)


def generalized_jsd(loss: Any, chunk: Chunk) -> Outcome:
    """``β KL(t || m) + (1 - β) KL(s || m)``; the gradient is ``(1 - β) s_k (log(s_k / m_k) - KL(s || m))``."""
    beta = loss.beta
    if beta in (0, 1):
        return (reverse_kl if beta else forward_kl)(loss, chunk)
    student, teacher = (_scored(scores, loss.temperature) for scores in (chunk.student, chunk.teacher))
    of_teacher, of_student = torch.zeros_like(student.lse), torch.zeros_like(student.lse)
    tiny = torch.finfo(of_teacher.dtype).tiny
    room = student.tiles[0].new_empty(3, student.tiles[0].numel())
    for s, t in zip(student.tiles, teacher.tiles, strict=True):
        student.normalize(s, floor=True)
        teacher.normalize(t, floor=True)
        p, q, log_m = (_within(space, s) for space in room)
        exponentiate(s, out=p)
        exponentiate(t, out=q)
        # If both probabilities underflow, they multiply log m by 0, so any finite value will do.
        torch.lerp(p, q, beta, out=log_m).clamp_(min=tiny).log_()
        of_teacher += torch.linalg.vecdot(q, t.sub_(log_m))
        s.sub_(log_m).mul_(p)
        of_student += s.sum(dim=1)
        t.copy_(p)

    def complete(number: int) -> None:
        student.tiles[number].sub_(teacher.tiles[number].mul_(of_student.unsqueeze(1)))

    values = beta * of_teacher + (1 - beta) * of_student
    return _with_temperature(loss, values, student.tiles, 1 - beta, complete)


def nkd(loss: Any, chunk: Chunk) -> Outcome:
    """``-t_y log s_y - γ sum_k t̂_k log ŝ_k`` at temperature 1; the sum is over the classes without the target."""
    hits = _hits(chunk)
    student, teacher = (_scored(scores, hits=hits) for scores in (chunk.student, chunk.teacher))
    lse = torch.logaddexp(student.lse, student.picked)
    rest = (student.lse - lse).exp()
    t_y = (teacher.picked - torch.logaddexp(teacher.lse, teacher.picked)).exp()
    others = torch.zeros_like(lse)
    share = (t_y * rest + loss.gamma).unsqueeze(1)
    for s, t, (rows, columns) in zip(student.tiles, teacher.tiles, hits, strict=True):
        student.normalize(s)
        s[rows, columns] = 0.0
        teacher.normalize(t, floor=True)
        exponentiate(t)
        others -= torch.linalg.vecdot(t, s)
        exponentiate(s).mul_(share).sub_(t, alpha=loss.gamma)
        s[rows, columns] = -(t_y * rest)[rows]
    return Outcome(loss.gamma * others - t_y * (student.picked - lse), student.tiles)


def stablemax(loss: Any, chunk: Chunk) -> Outcome:
    """``log sum_k s(z_k) - log s(z_y)``, ``s(z) = 1 + z`` or ``1 / (1 - z)``; s' / s is ``1 / (1 + |z|)``."""
    dtype = getattr(torch, loss.compute_dtype)
    hits = _hits(chunk)
    tiles: Tiles = []
    total = picked = torch.zeros(0)
    for tile, (rows, columns) in zip(chunk.student, hits, strict=True):
        if not tiles:
            total, picked = (tile.new_zeros(len(tile), dtype=dtype) for _ in range(2))
        s, _ = _stable(tile.to(dtype))
        total += s.sum(dim=1)
        picked[rows] = s[rows, columns]
        tiles.append(tile)

    def complete(number: int) -> None:
        rows, columns = hits[number]
        s, slope = _stable(tiles[number].to(dtype))
        s.div_(total.unsqueeze(1))
        s[rows, columns] -= 1
        tiles[number].copy_(s.mul_(slope))

    return Outcome(total.log() - picked.log(), tiles, 1.0, complete)


def _stable(scores: Tensor) -> tuple[Tensor, Tensor]:
    size = scores.abs().add_(1)
    slope = size.reciprocal()
    return torch.where(scores >= 0, size, slope), slope


def _with_temperature(
    loss: Any, values: Tensor, tiles: Tiles, factor: float = 1.0, complete: Callable[[int], None] | None = None
) -> Outcome:
    # KD always has the factor τ²; its relatives have it by a setting. The gradient by the scores has 1/τ.
    square = loss.temperature**2 if isinstance(loss, KD) or loss.tau_squared else 1.0
    return Outcome(square * values, tiles, factor * square / loss.temperature, complete)


class _Scored(NamedTuple):
    """A network's scores of a chunk, and ``log sum_k exp(score_k / τ)``, without the target if it was picked out."""

    tiles: Tiles
    temperature: float
    lse: Float[Tensor, " rows"]
    picked: Float[Tensor, " rows"]

    def normalize(self, tile: Float[Tensor, "rows tile"], floor: bool = False) -> None:
        """Turn scores into log-probabilities in place; with `floor`, classes of probability 0 get -1e4."""
        torch.add(-self.lse.unsqueeze(1), tile, alpha=1 / self.temperature, out=tile)
        if floor:
            # exp(-1e4) is 0 in every dtype, and 0 times -1e4 is 0, while 0 times -inf is NaN.
            tile.clamp_(min=-1e4)


def _scored(
    scores: Iterable[Tensor], temperature: float = 1.0, hits: list[tuple[Tensor, Tensor]] | None = None
) -> _Scored:
    """Sum over scores as they are computed; with `hits`, pick out the targets' scores."""
    tiles: Tiles = []
    total = picked = room = torch.zeros(0)
    for number, tile in enumerate(scores):
        if not tiles:
            total, picked = (tile.new_zeros(len(tile)) for _ in range(2))
            room = torch.empty_like(tile)
        if hits is not None:
            rows, columns = hits[number]
            picked[rows] = tile[rows, columns]
            tile[rows, columns] = -torch.inf
        if tile.device.type == "cpu":
            softened = tile if temperature == 1 else torch.div(tile, temperature, out=_within(room, tile))
            total += exponentiate(softened, out=_within(room, tile)).sum(dim=1)
        tiles.append(tile)
    # Scores of ordinary size need no shift by their maximum; only on a CPU is it free to check the range of a sum.
    if total.device.type == "cpu" and bool(((total > 1e-20) & (total < 1e20)).all()):
        return _Scored(tiles, temperature, total.log(), picked)
    largest = torch.stack([tile.amax(dim=1) for tile in tiles]).amax(dim=0)
    # Of a row without any class left the sum is 0, and its logarithm -inf.
    largest = largest.clamp(min=torch.finfo(largest.dtype).min)
    total = torch.zeros_like(largest)
    for tile in tiles:
        total += exponentiate((tile - largest.unsqueeze(1)).div_(temperature)).sum(dim=1)
    return _Scored(tiles, temperature, largest / temperature + total.log(), picked)


def _within(room: Tensor, tile: Tensor) -> Tensor:
    """A tensor of a tile's shape in reused memory, because new memory would be cleared."""
    return room.view(-1)[: tile.numel()].view_as(tile)


def _hits(chunk: Chunk) -> list[tuple[Tensor, Tensor]]:
    assert chunk.target is not None
    if len(chunk.entries) == 1:
        return [(torch.arange(len(chunk.target), device=chunk.target.device), chunk.target)]
    return locate(chunk.target, chunk.entries)


BY_HAND: dict[type[Loss], ByHand] = {
    KD: ByHand(forward_kl),
    ForwardKL: ByHand(forward_kl),
    ReverseKL: ByHand(reverse_kl),
    GeneralizedJSD: ByHand(generalized_jsd),
    NKD: ByHand(nkd, lambda loss: loss.temperature == 1),
    ArcFace: ByHand(margin_cross_entropy, everywhere=True),
    CosFace: ByHand(margin_cross_entropy, everywhere=True),
    StableMaxCrossEntropy: ByHand(stablemax, lambda loss: not loss.label_smoothing, everywhere=True),
}
"""The losses with a hand-written evaluation; not their subclasses, whose rows may differ."""


def evaluator_of(loss: Callable[..., Tensor], on_cpu: bool = True) -> Callable[[Chunk], Outcome] | None:
    """The function that evaluates a chunk of a loss by hand, if its class, settings and device allow it."""
    by_hand = BY_HAND.get(type(loss)) if isinstance(loss, Loss) else None
    if by_hand is None or not by_hand.suits(loss) or not (on_cpu or by_hand.everywhere):
        return None
    refused = getattr(loss, "shared_support", False) or getattr(loss, "in_double", False)
    return None if refused else partial(by_hand.evaluate, loss)
