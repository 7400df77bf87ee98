"""Cross-entropy of a classifier head without its logits; calls every implementation."""

import functools
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, Protocol, cast, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.choice import choose, named
from lightning_losses.kernels.cross_entropy.problem import Impl, Problem
from lightning_losses.kernels.cross_entropy.problem import LinearCrossEntropyValue as LinearCrossEntropyValue
from lightning_losses.kernels.inputs import (
    autocast,
    check_accum_dtype,
    check_chunk,
    check_classes_of_head,
    check_head,
    check_normalizer,
    choose_rows,
    filter_threshold,
    scales,
    shifted,
    unmasked_classes,
)
from lightning_losses.kernels.terms import RowTransform, Terms, check_row_function, statistics_dtype
from lightning_losses.kernels.traced import Returned, traceable
from lightning_losses.numerics.checks import check_choice, check_number, check_temperature
from lightning_losses.numerics.derivatives import in_transform
from lightning_losses.numerics.reduction import Reduction

_NAME = "linear_cross_entropy"
P = ParamSpec("P")


class _Door(Protocol[P]):
    """The call of a fused loss; it returns the loss alone, or with further values that the caller requests."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, *operands: Any, return_lse: Literal[True], **options: Any
    ) -> LinearCrossEntropyValue: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, *operands: Any, return_z_loss: Literal[True], **options: Any
    ) -> LinearCrossEntropyValue: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, *operands: Any, return_log_probability: Literal[True], **options: Any
    ) -> LinearCrossEntropyValue: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, *operands: Any, return_entropy: Literal[True], **options: Any
    ) -> LinearCrossEntropyValue: ...
    @overload
    def __call__(self, *operands: P.args, **options: P.kwargs) -> Tensor: ...


def _returned(arguments: dict[str, Any]) -> Returned:
    """The kind of result for these arguments: the loss alone, or with the requested further values."""
    target, shift = arguments["target"], int(arguments.get("shift", 0))
    shape = (*target.shape[:-1], target.shape[-1] - shift) if shift else tuple(target.shape)
    rows = arguments.get("reduction", "mean") == "none"
    extra = [field for field in LinearCrossEntropyValue._fields[1:] if arguments.get(f"return_{field}", False)]
    rowwise = [rows, *(rows if field == "z_loss" else True for field in extra)]
    return Returned(LinearCrossEntropyValue if extra else None, ("loss", *extra), tuple(rowwise), shape)


def _door(function: Callable[P, Tensor | LinearCrossEntropyValue]) -> _Door[P]:
    """The function, made traceable; its flags determine its return type."""
    traced = traceable(_returned)(function)
    untraced = torch.compiler.disable(function)  # type: ignore[no-untyped-call]

    @functools.wraps(function)
    def call(*operands: P.args, **options: P.kwargs) -> Tensor | LinearCrossEntropyValue:
        # A node of a graph takes no tensors but the head's own, so that others would get no gradient.
        if torch.compiler.is_compiling() and _learns(options.get("row_function"), *operands, **options):
            return untraced(*operands, **options)
        return traced(*operands, **options)

    return cast(_Door[P], call)


def _learns(function: Any, *operands: Any, **options: Any) -> bool:
    """Whether a call's row function has tensors of its own that need a gradient, as a compiler can see it."""
    if function is None or not torch.is_grad_enabled():
        return False
    hidden = options["hidden"] if "hidden" in options else operands[0]
    return bool(function(torch.ones(2, device=hidden.device)).requires_grad)


@_door
def linear_cross_entropy(
    hidden: Float[Tensor, "*tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, "*tokens"],
    bias: Float[Tensor, " vocabulary"] | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    class_weight: Float[Tensor, " vocabulary"] | None = None,
    row_function: RowTransform | None = None,
    shift: int | bool = 0,
    reduction: Reduction = "mean",
    normalizer: float | Tensor | None = None,
    return_lse: bool = False,
    return_z_loss: bool = False,
    return_log_probability: bool = False,
    return_entropy: bool = False,
    drop_ignored: bool | None = None,
    filter_eps: float | Literal["auto"] | None = None,
    sort_vocabulary: bool = False,
    chunk: int | tuple[int, int] | None = None,
    accum_dtype: torch.dtype | None = None,
    impl: Impl = "auto",
) -> Tensor | LinearCrossEntropyValue:
    """Cross-entropy of ``hidden @ weight.T + bias`` against `target`, without ever holding these logits.

    With scores ``l``, softcapped to ``s tanh(l / s)`` if asked, over a temperature, and ``lse = log sum_v exp l_v``,
    a token's loss is ``(1 - ε) w_y (lse - l_y) + ε/n sum_v w_v (lse - l_v) + z lse²``, with the sum over the n classes
    that no bias of -inf masks, or ``w_y g(lse - l_y) + z lse²`` for a row function g.

    Args:
        hidden: [..., T, D] hidden states.
        weight: [V, D] the head's weight.
        target: [..., T] int64 token ids.
        bias: [V], or None; -inf masks a class. With a softcap that is an error.
        ignore_index: tokens with this target are ignored; it may be a valid id.
        label_smoothing: ε, in [0, 1].
        softcap: s, above 0, or None.
        temperature: τ, above 0: the divisor of the (softcapped) scores.
        z_loss: z, at least 0.
        class_weight: [V] w, or None for 1; the mean of the cross-entropy, not of the z-loss, is weighted by ``w_y``.
        row_function: g: a differentiable elementwise function of the rows' cross-entropy: focal loss is
            ``lambda c: (-torch.expm1(-c)) ** 2 * c``. It costs as much as cross-entropy; a fourth product if it has
            tensors of its own that learn. Not with label_smoothing. It is tried on two rows at every call.
        shift: k: ``hidden[..., :-k, :]`` is scored against ``target[..., k:]``; True is 1, for next-token prediction.
        reduction: "mean" over the kept tokens, "sum", or "none".
        normalizer: the divisor of the mean, instead of its own count: the tokens of all accumulated batches and
            processes. If DDP averages gradients over W processes, give 1/W of that.
        return_lse: also return the logsumexps; costs a fourth product, since their gradient is only known in backward.
        return_z_loss: also return the z-loss's part.
        return_log_probability: also return the log-probabilities of the targets; costs a fourth product, as lse does.
        return_entropy: also return the entropies of the tokens' distributions, likewise.
        drop_ignored: leave ignored tokens out before the products. By default only on a CPU: on a GPU the host would
            have to wait for the number of tokens left, so ignored tokens stay in the products with weight 0. True is
            faster if most tokens are ignored.
        filter_eps: skip a tile of the gradient where every ``|softmax - onehot|`` is below this; "auto" is the
            dtype's epsilon / 32. By default nothing is skipped.
        sort_vocabulary: walk the vocabulary by mean score, so that filtering finds more tiles to skip.
        chunk: tokens held at once, or (tokens, vocabulary entries) for `impl="recompute"`; chosen by default.
        accum_dtype: the dtype in which "chunked" and "avx512" accumulate the weight's gradient over the chunks, such as
            float32 for a bfloat16 head; by default the weight's own.
        impl: "reference" (holds the logits), "triton" (CUDA), "chunked" (gradients made in forward), "avx512" (the
            same in C++, on CPUs that have it), "recompute" (memory independent of V; per-row gradients), "torch",
            "cce", "cce_torch_compile", "liger", "quack", or "auto"; `choose_implementation` says which "auto" takes,
            and why.

    Shapes:
        hidden: [..., T, D]; weight: [V, D]; target: [..., T]; lse and an unreduced loss: [..., T - shift].

    Returns:
        The loss in float32 (float64 for float64); a `LinearCrossEntropyValue` if further values are requested. If all
        tokens are ignored, the mean and its gradients are 0.

    Raises:
        ValueError: shapes, dtypes or ranges that do not fit; a row function with smoothing; an implementation that does
            not support an option, with the reason; a row function that does not give each row a value with a gradient.
            On a CPU and under `debug`, a target outside [0, V), and a row function that couples rows.
        RuntimeError: a backward pass with create_graph=True through any implementation but "reference".

    Source:
        Wijmans et al., 2025, "Cut Your Losses in Large-Vocabulary Language Models", arXiv:2411.09009 (the options and
        the gradient filter are those of apple/ml-cross-entropy); label smoothing, class weights and z-loss as in
        linkedin/Liger-Kernel. Where all tokens are ignored, both give NaN. z-loss: Chowdhery et al., 2022, "PaLM",
        arXiv:2204.02311.

    Example:
        >>> hidden, weight = torch.eye(3, 4), torch.ones(5, 4)
        >>> round(linear_cross_entropy(hidden, weight, torch.tensor([0, 1, -100])).item(), 4)
        1.6094
    """
    check_choice(_NAME, "reduction", reduction, Reduction)
    check_choice(_NAME, "impl", impl, Impl)
    asked = named(impl)
    check_number(_NAME, "label_smoothing", label_smoothing, least=0, most=1)
    check_number(_NAME, "z_loss", z_loss, least=0)
    check_temperature(_NAME, temperature)
    if softcap is not None:
        check_number(_NAME, "softcap", softcap, above=0)
    if row_function is not None and label_smoothing:
        raise ValueError(
            f"{_NAME}: label_smoothing={label_smoothing} came with row_function, which applies to the target's "
            "cross-entropy alone; give one of them."
        )
    check_normalizer(_NAME, normalizer, reduction)
    check_chunk(_NAME, chunk, tiles=True)
    check_accum_dtype(_NAME, accum_dtype)
    check_head(_NAME, hidden, weight, target, bias, class_weight)
    check_classes_of_head(_NAME, len(weight))
    threshold = filter_threshold(_NAME, filter_eps, weight)
    hidden, target = shifted(_NAME, hidden, target, shift)
    hidden, weight, bias = autocast(hidden, weight, bias)
    chosen = choose_rows(_NAME, hidden, target, len(weight), ignore_index, drop_ignored)
    weights = None if class_weight is None else class_weight.to(weight.device, statistics_dtype(weight))
    unmasked = unmasked_classes(_NAME, bias, label_smoothing, softcap)
    terms = Terms(len(weight), float(label_smoothing), softcap, weights, temperature, row_function, unmasked)
    learned = False
    # A transform takes only the logits, through which everything has its gradient.
    if row_function is not None and not in_transform():
        learns = torch.is_grad_enabled()
        wanted = learns and any(each is not None and each.requires_grad for each in (hidden, weight, bias))
        learned = check_row_function(_NAME, row_function, weight.new_empty(0, dtype=statistics_dtype(weight)), wanted)
    row_weight = terms.row_weight(chosen.target)
    scale, z_scale = scales(chosen.hidden, reduction, normalizer, row_weight, z_loss, chosen.kept)
    problem = Problem(
        chosen.hidden,
        weight,
        chosen.target,
        terms,
        chosen.places,
        chosen.kept,
        bias,
        target.shape,
        scale,
        z_scale,
        # Gradients made in the forward pass don't reach what a row function learns.
        reduction == "none" or return_lse or return_log_probability or return_entropy or learned,
        return_entropy,
        return_lse,
        reduction,
        chunk,
        threshold,
        sort_vocabulary,
        accum_dtype,
    )
    implementation, _ = choose(problem, asked)
    if asked is not None and (refusal := implementation.refuses(problem)):
        why = "a row function that learns needs each row's own gradient, and " if learned else ""
        raise ValueError(f"{_NAME}: {why}{refusal}")
    with torch.autocast(hidden.device.type, enabled=False):
        value = implementation.evaluate(problem)
    if not (return_lse or return_z_loss or return_log_probability or return_entropy):
        return value.loss
    return LinearCrossEntropyValue(
        value.loss,
        value.lse if return_lse else None,
        value.z_loss if return_z_loss else None,
        value.log_probability if return_log_probability else None,
        value.entropy if return_entropy else None,
    )
