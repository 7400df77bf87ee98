"""The chunked linear cross-entropy with loops over the head in C++, for CPUs with AVX-512; compiled at first use.

The products and the operations around them are one loop: scores are exponentiated in the registers that computed them,
and only tiles of the weight are copied. Everything else is shared with `chunked`.
"""

import ctypes
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.compiled import library
from lightning_losses.kernels.compiled.library import address, name_of
from lightning_losses.kernels.cross_entropy.chunked import Chunked, sums_and_gradients
from lightning_losses.kernels.cross_entropy.problem import LinearCrossEntropyValue, Problem, of_sums
from lightning_losses.kernels.cross_entropy.walk import TokenWalk

SOURCE = Path(__file__).with_suffix(".cpp")


def unsupported(
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    accum_dtype: torch.dtype | None = None,
) -> str | None:
    """Why this implementation can't evaluate this call on this machine; None if it can."""
    return library.unsupported(SOURCE, hidden, weight, accum_dtype)


def passed_over(
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    accum_dtype: torch.dtype | None = None,
) -> str | None:
    """Why it isn't chosen automatically; None if it can evaluate the call and is the fastest."""
    return unsupported(hidden, weight, accum_dtype) or library.outrun(weight.dtype)


def default_chunk(tokens: int, weight: Float[Tensor, "vocabulary width"]) -> int:
    """Tokens in a chunk: one in 20, in whole panels of 64, at least 128, and at least as many as fit in 6.5 MiB.

    For a wide head it is one in 32, because the copies of a chunk's hidden states count too.
    """
    cached = 13 * 2**19 // (weight.element_size() * max(len(weight), 1))
    share = tokens // (20 if weight.shape[1] <= 1024 else 32)
    return min(max(share // 64 * 64, cached // 64 * 64, 128), 512)


_POINTER, _INTEGER, _NUMBER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Chunk(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in ("hidden", "weight", "bias", "target", "exponentials")),
        *((name, _INTEGER) for name in ("tokens", "width", "vocabulary", "stride", "threads")),
        *((name, _NUMBER) for name in ("softcap", "sharpness")),
    ]


class _Scores(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in ("shift", "share", "smoothing", "class_weight")),
        *((name, _POINTER) for name in ("smooth", "picked", "largest", "others", "drawn")),
    ]


class _Gradients(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in ("share", "corner", "weight", "bias", "hidden")),
        ("first", _INTEGER),
    ]


class Avx512Scores:
    """A chunk's `ChunkScores`, by the compiled functions.

    The slopes of a softcap are known when exponentials are computed, and multiply them there. Label smoothing needs
    another factor for each slope; then the scores are computed a second time, as gradients.
    """

    def __init__(
        self,
        walk: TokenWalk,
        hidden: Float[Tensor, "rows width"],
        target: Int[Tensor, " rows"],
        *,
        shifted: bool,
        want_hidden: bool,
    ) -> None:
        head = walk.head
        self.walk, self.want_hidden = walk, want_hidden
        self.softcap, self.sharpness = head.terms.softcap, 1 / head.terms.temperature
        self.hidden, self.target = hidden.contiguous(), target.contiguous()
        self.exponentials = walk.turned_place(len(hidden))
        self.bias = None if head.bias is None else head.bias.to(head.statistics).contiguous()
        self.picked = hidden.new_zeros(len(hidden), dtype=head.statistics)
        self.others = torch.zeros_like(self.picked)
        self.smooth = walk.smooth(hidden)
        self.twice = self.softcap is not None and head.terms.label_smoothing > 0
        if self.twice:
            self.smooth = torch.zeros_like(self.picked)
        self.shift: Tensor | None = None
        self.drawn: Tensor | None = None
        self._largest = torch.full_like(self.picked, -torch.inf)
        self._score(
            self.others,
            largest=self._largest if shifted else None,
            smooth=self.smooth if self.twice else None,
            draws=not (shifted or self.twice),
        )
        self.picked_slope = None
        if self.softcap is not None:
            self.picked_slope, own = torch.zeros_like(self.picked), walk.own(target)
            self.picked_slope[own] = 1 - (self.picked[own] / (self.softcap * self.sharpness)).square()

    def largest(self) -> Float[Tensor, " rows"]:
        """The largest score of each row without its target."""
        return self._largest

    def exponentiate(self, shift: Float[Tensor, " rows"]) -> None:
        """Turn scores into ``exp(l - shift)``, and sum these over the vocabulary without the target."""
        self.shift = shift
        self._score(self.others, draws=not self.twice)

    def _score(
        self,
        others: Float[Tensor, " rows"],
        *,
        draws: bool,
        largest: Tensor | None = None,
        smooth: Tensor | None = None,
        share: Tensor | None = None,
        smoothing: Tensor | None = None,
    ) -> None:
        if draws and self.want_hidden:
            # Rounded up to whole registers and whole panels.
            rows, width = (-(-size // step) * step for size, step in zip(self.hidden.shape, (16, 64), strict=True))
            self.drawn = self.hidden.new_empty(rows, width, dtype=self.picked.dtype)
        class_weight = self.walk.head.smoothing_weight if self.twice else None
        given = (self.shift, share, smoothing, class_weight)
        asked = (smooth, self.picked, largest, others, self.drawn)
        self._call("score", _Scores(*map(address, (*given, *asked))))

    def gather(
        self,
        share: Float[Tensor, " rows"],
        corner: Float[Tensor, " rows"],
        smoothing: float | Tensor,
    ) -> Float[Tensor, "rows width"] | None:
        """Add the gradients of the weight and the bias, and return that of the hidden states."""
        weight, bias = self.walk.grad_weight, self.walk.grad_bias
        if self.twice:
            share, corner = self._make_gradients(share, corner, smoothing)
        result = _Gradients(*map(address, (share, corner, weight, bias, self.drawn)), self.walk.first)
        self._call("gather", result, self.hidden.dtype if weight is None else weight.dtype)
        if weight is None and bias is not None:
            # The bias's gradient is normally computed together with the weight's.
            bias += (self.exponentials @ share.to(self.exponentials.dtype)).to(share.dtype)
            own = self.walk.own(self.target)
            bias.index_add_(0, self.target[own], corner[own])
        return None if self.drawn is None else self.drawn[: len(self.hidden), : self.hidden.shape[1]]

    def _make_gradients(
        self, share: Float[Tensor, " rows"], corner: Float[Tensor, " rows"], smoothing: float | Tensor
    ) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
        """Replace the exponentials by whole gradients; returns their factors and the parts of the targets."""
        assert self.picked_slope is not None
        of_rows = (share.new_ones(len(share), 1) * smoothing).squeeze(1)
        self._score(torch.zeros_like(self.others), draws=True, share=share.contiguous(), smoothing=of_rows)
        own = self.walk.own(self.target)
        smoothed = of_rows[own] * self.walk.head.smoothing_weight[self.target[own]] * self.picked_slope[own]
        return torch.ones_like(share), corner.index_add(0, own, -smoothed)

    def _call(self, name: str, result: ctypes.Structure, *dtypes: torch.dtype) -> None:
        head = self.walk.head
        tensors = (self.hidden, head.weight, self.bias, self.target, self.exponentials)
        sizes = (*self.hidden.shape, len(head.weight), self.exponentials.stride(0), torch.get_num_threads())
        suffix = "_".join(map(name_of, (self.hidden.dtype, *dtypes)))
        walk = getattr(library.load(SOURCE).functions, f"{name}_{suffix}")
        walk(
            ctypes.byref(_Chunk(*map(address, tensors), *sizes, self.softcap or 0.0, self.sharpness)),
            ctypes.byref(result),
        )


class Avx512(Chunked):
    """As `Chunked`, with scores from compiled functions."""

    name = "avx512"
    memory = "as `chunked`"
    purpose = "as `chunked`, in C++, on CPUs with AVX-512 in float32 and bfloat16"

    def refuses(self, problem: Problem) -> str | None:
        """As `Chunked`, and problems that the C++ functions don't support."""
        if refusal := super().refuses(problem):
            return refusal
        missing = unsupported(problem.hidden, problem.weight, problem.accum_dtype)
        return None if missing is None else f"impl='avx512' can't take this: {missing}; use 'chunked'."

    def merit(self, problem: Problem) -> str | None:
        """It is the fastest on the measured CPUs."""
        if self.passed_over(problem) is not None:
            return None
        return f"{super().merit(problem)}, and the walk over the head is compiled for this CPU"

    def passed_over(self, problem: Problem) -> str | None:
        """Why ``impl="auto"`` doesn't choose it for a problem that `Chunked` can evaluate; None if it does."""
        return passed_over(problem.hidden, problem.weight, problem.accum_dtype)

    def evaluate(self, problem: Problem) -> LinearCrossEntropyValue:
        """By `sums_and_gradients` of `chunked`."""
        chunk = problem.chunk or default_chunk(len(problem.hidden), problem.weight)
        return of_sums(sums_and_gradients, self.name, problem._replace(chunk=chunk), scores=Avx512Scores)


AVX512 = Avx512()
