"""A chunk of two networks' scores in C++: computes them, sums over them, and turns them into gradients."""

import ctypes
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from lightning_losses.kernels.compiled.library import address, load, name_of
from lightning_losses.kernels.rows.objectives import Objective
from lightning_losses.numerics.probabilities import LOG_OF_ZERO

SOURCE = Path(__file__).with_name("avx512.cpp")

KINDS = {
    **dict.fromkeys(("forward_kl", "reverse_kl", "symmetric_kl", "nkd"), 0),
    **{"jsd": 1, "skew_kl": 2, "skew_rkl": 3, "total_variation": 4, "ab": 5},
}
"""The objectives' numbers in C++; 0 is any sum of KL divergences, whose values follow from the first sums."""

_POINTER, _INTEGER, _NUMBER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Network(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in ("hidden", "weight", "bias", "scores", "picked", "shift")),
        ("width", _INTEGER),
    ]


class _Pair(ctypes.Structure):
    _fields_ = [
        ("networks", _Network * 2),
        ("target", _POINTER),
        *((name, _INTEGER) for name in ("tokens", "vocabulary", "stride", "threads")),
        ("sharpness", _NUMBER),
        *((name, ctypes.c_int32) for name in ("excluding", "whole")),
    ]


class _Divergence(ctypes.Structure):
    _fields_ = [
        ("kind", _INTEGER),
        *((name, _NUMBER) for name in ("a", "b")),
        ("logsumexp", _POINTER * 2),
        *((name, _POINTER) for name in ("values", "slopes")),
    ]


class _Gradients(ctypes.Structure):
    _fields_ = [
        ("slope_weight", _NUMBER),
        *((name, _POINTER) for name in ("share", "of_target", "whole", "corner", "weight", "bias", "hidden")),
        ("first", _INTEGER),
    ]


class Network(NamedTuple):
    """One network's part of a chunk.

    Attributes:
        hidden: [rows, D] its hidden states; None if its scores are already computed.
        weight: [V, D] its head's weight.
        bias: [V] in float32, or None.
        scores: [V, rows rounded up to 16] memory for its scores.
    """

    hidden: Float[Tensor, "rows width"] | None
    weight: Float[Tensor, "vocabulary width"]
    bias: Float[Tensor, " vocabulary"] | None
    scores: Float[Tensor, "vocabulary stride"]


class Slopes(NamedTuple):
    """A divergence's values, and the sums of ``s_k dphi/ds_k``, which its gradients need."""

    values: Float64[Tensor, " rows"]
    sums: Float64[Tensor, " rows"]


class ScoredPair:
    """Both networks' scores of a chunk, and their statistics in float64.

    Attributes:
        picked: each network's score of the target.
        others: the logsumexps of the scores without temperature; without the target, if the objective excludes it.
        whole: the same, always with the target.
        shifted: whether the largest score was subtracted, because the sums left the safe range.
    """

    def __init__(
        self,
        networks: tuple[Network, Network],
        target: Int[Tensor, " rows"] | None,
        objective: Objective,
        *,
        hard: bool,
        shifted: bool,
    ) -> None:
        self.networks, self.target, self.objective = networks, target, objective
        self.excluding = objective.name == "nkd"
        self.softened = objective.temperature != 1 and (self.excluding or hard)
        self.shifts: list[Tensor] | None = None
        student = networks[0]
        assert student.hidden is not None
        self.rows, stride = len(student.hidden), student.scores.shape[1]
        self._picked = student.scores.new_zeros(2, self.rows)
        sums = student.scores.new_zeros(8, stride)
        self._call(f"score_{name_of(student.weight.dtype)}", _POINTER(None if shifted else address(sums)))
        total = sums[: 4 if self.softened else 2, : self.rows]
        # Scores of ordinary size need no shift by their maximum.
        self.shifted = shifted or not bool(((total > 1e-20) & (total < 1e20)).all())
        shift = self._picked.new_zeros(2, self.rows)
        if self.shifted:
            shift = torch.stack([network.scores.amax(dim=0)[: self.rows] for network in networks])
            self.shifts = list(shift)
            self._call("sum", _POINTER(address(sums.zero_())))
        self._sums = sums[:, : self.rows].double()
        self.picked = self._picked.double()
        self._lse = self._sums[:2].log() + shift.double() / objective.temperature
        self.others = self._sums[2:4].log() + shift.double() if self.softened else self._lse
        self.whole = torch.logaddexp(self.others, self.picked) if self.excluding else self.others

    def slopes(self) -> Slopes:
        """The objective's values and sums without its factor; over the other classes, if it excludes the target."""
        if KINDS[self.objective.name] == 0:
            return self._kullback_leibler()
        values, slopes = self._picked.new_zeros(2, self.rows)
        self._call("terms", ctypes.byref(self._divergence(address(values), address(slopes))))
        return Slopes(values.double(), slopes.double())

    def _kullback_leibler(self) -> Slopes:
        (s, t), (of_student, of_teacher) = self._lse, self._sums[:2]
        forward_gain, forward_mass, reverse_gain, reverse_mass = self._sums[4:]
        teacher_mass, student_mass = forward_mass / of_teacher, reverse_mass / of_student
        # One network's probability on classes that the other masks; there the other's logarithm is LOG_OF_ZERO.
        teacher_lost, student_lost = 1 - teacher_mass, 1 - student_mass
        # If the target is excluded, the forward part is a cross-entropy.
        forward = forward_gain / of_teacher + s * teacher_mass - LOG_OF_ZERO * teacher_lost
        forward = forward if self.excluding else forward - t
        reverse = reverse_gain / of_student + t * student_mass - s - LOG_OF_ZERO * student_lost
        a, b = self.objective.a, self.objective.b
        return Slopes(a * forward + b * reverse, b * (reverse + 1) - a * teacher_mass)

    def gather(
        self,
        slopes: Slopes,
        *,
        slope_weight: float,
        of_target: Float64[Tensor, " rows"] | None,
        share: Float[Tensor, " rows"],
        weight: Float[Tensor, "vocabulary width"] | None,
        bias: Float[Tensor, " vocabulary"] | None,
        want_hidden: bool,
        first: bool,
    ) -> Float[Tensor, "rows width"] | None:
        """Add the gradients of the student's weight and bias, and return that of its hidden states.

        Args:
            slopes: the objective's slopes.
            slope_weight: the factor of its gradient with respect to the softened scores.
            of_target: the factor of the gradient of the target's cross-entropy; None for none.
            share: the weight of each row's gradient.
            weight, bias: the gradients to add to, or None.
            want_hidden: whether the gradient of the hidden states is computed.
            first: whether the weight's gradient is overwritten.
        """
        student = self.networks[0]
        sums, share = slopes.sums.float(), share.contiguous()
        whole = corner = weights = drawn = None
        if of_target is not None:
            whole, weights = _in_two(self.whole[0]), of_target.float()
            # p_y - 1, without cancellation for confident rows if the target was excluded.
            rest = (self.others[0] - self.whole[0]).exp() if self.excluding else 1.0
            corner = (-of_target * rest).float()
        if want_hidden:
            drawn = student.scores.new_zeros(student.scores.shape[1], -(-student.weight.shape[1] // 64) * 64)
        vectors = map(address, (share, weights, whole, corner, weight, bias, drawn))
        kinds = (student.weight.dtype, student.weight.dtype if weight is None else weight.dtype)
        self._call(
            "_".join(["gather", *map(name_of, kinds)]),
            ctypes.byref(self._divergence(None, address(sums))),
            ctypes.byref(_Gradients(slope_weight, *vectors, first)),
        )
        return None if drawn is None else drawn[: self.rows, : student.weight.shape[1]].mul_(share.unsqueeze(1))

    def _divergence(self, values: int | None, slopes: int | None) -> _Divergence:
        self._parts_of_lse = [_in_two(lse) for lse in self._lse]
        addresses = (_POINTER * 2)(*map(address, self._parts_of_lse))
        objective = self.objective
        return _Divergence(KINDS[objective.name], objective.a, objective.b, addresses, values, slopes)

    def _call(self, name: str, *arguments: Any) -> None:
        networks = (_Network * 2)(
            *(
                _Network(
                    *map(address, (network.hidden, network.weight, network.bias, network.scores)),
                    None if self.target is None else address(self._picked[number]),
                    None if self.shifts is None else address(self.shifts[number]),
                    network.weight.shape[1],
                )
                for number, network in enumerate(self.networks)
            )
        )
        vocabulary, stride = self.networks[0].scores.shape
        sizes = (self.rows, vocabulary, stride, torch.get_num_threads())
        settings = (1 / self.objective.temperature, self.excluding, self.softened)
        pair = _Pair(networks, address(self.target), *sizes, *settings)
        getattr(load(SOURCE).functions, name)(ctypes.byref(pair), *arguments)


def _in_two(values: Float64[Tensor, " rows"]) -> Float[Tensor, "2 rows"]:
    """Numbers in float32, and their rounding errors."""
    rounded = values.float()
    return torch.stack([rounded, (values - rounded).float()])
