"""The Triton kernel of linear cross-entropy: one program per row of logits, read once or twice, overwritten once.

Set ``TRITON_INTERPRET=1`` before Python starts to run it on a CPU, slowly. The size of the vocabulary is a compile-time
constant, because a model has one; so loops over it need no tensor as their bound.
"""

# ruff: noqa: N803  (Triton's compile-time constants are written in capitals)
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

LOG2_E = tl.constexpr(1.4426950408889634)
# The initial value of running maxima: below every score, but finite, so that inf - inf never occurs.
LOWEST = tl.constexpr(-1e30)


@triton.jit
def _tanh(x):  # type: ignore[no-untyped-def]
    # By exp, which the interpreter supports; it is 1 or -1 where exp overflows or underflows.
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


@triton.jit
def _scores(  # type: ignore[no-untyped-def]
    logits, bias_ptr, numbers_ptr, columns, VOCABULARY: tl.constexpr, STRIDE: tl.constexpr,
    HAS_BIAS: tl.constexpr, SOFTCAP: tl.constexpr, TEMPERED: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Scores divided by the temperature, -inf outside the row, and their derivative by the logits."""
    # The mask includes the row's padding, so that loads stay wide for an odd vocabulary size.
    score = tl.load(logits + columns, mask=(columns >= 0) & (columns < STRIDE), other=0.0).to(COMPUTE)
    inside = (columns >= 0) & (columns < VOCABULARY)
    if HAS_BIAS:
        score += tl.load(bias_ptr + columns, mask=inside, other=0.0).to(COMPUTE)
    slope = 1.0
    if SOFTCAP:
        softcap = tl.load(numbers_ptr)
        bent = _tanh(score / softcap)
        score = softcap * bent
        slope = 1.0 - bent * bent
    if TEMPERED:
        inverse_temperature = tl.load(numbers_ptr + 1)
        score *= inverse_temperature
        slope *= inverse_temperature
    return tl.where(inside, score, float("-inf")), slope


@triton.jit
def cross_entropy_kernel(  # type: ignore[no-untyped-def]
    logits_ptr, bias_ptr, numbers_ptr, target_ptr, class_weight_ptr,
    lse_ptr, picked_ptr, smooth_ptr, entropy_ptr,
    of_lse_ptr, of_square_ptr, of_picked_ptr, of_smooth_ptr, of_entropy_ptr,
    VOCABULARY: tl.constexpr, STRIDE: tl.constexpr,
    HAS_BIAS: tl.constexpr, SOFTCAP: tl.constexpr, TEMPERED: tl.constexpr, SMOOTH: tl.constexpr,
    ENTROPY: tl.constexpr, STATISTICS: tl.constexpr, GRADIENT: tl.constexpr, SQUARE: tl.constexpr,
    PARTIAL: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Computes a row's statistics, and overwrites its logits by their gradient.

    ``numbers`` holds the softcap and the inverse temperature in memory, because a number as an argument is float32.

    With ``STATISTICS`` the statistics are computed and stored, else read. ``of_...`` are the upstream gradients of the
    statistics; with ``SQUARE``, when statistics and gradients are computed in one launch, ``of_square * lse`` is added
    to that of the logsumexp. A target outside the row's classes belongs to another process with ``PARTIAL``, and makes
    the loss NaN without.
    """
    row = tl.program_id(0).to(tl.int64)
    logits = logits_ptr + row * STRIDE
    target = tl.load(target_ptr + row)
    if STATISTICS:
        # Running maxima and sums are vectors, reduced once after the loop.
        largest = tl.full((BLOCK,), LOWEST, COMPUTE)
        total = tl.zeros((BLOCK,), COMPUTE)
        weighted = tl.zeros((BLOCK,), COMPUTE)
        smooth = tl.zeros((BLOCK,), COMPUTE)
        for begin in range(0, VOCABULARY, BLOCK):
            columns = begin + tl.arange(0, BLOCK)
            inside = columns < VOCABULARY
            score, _ = _scores(
                logits, bias_ptr, numbers_ptr, columns, VOCABULARY, STRIDE, HAS_BIAS, SOFTCAP, TEMPERED, COMPUTE
            )
            if SMOOTH:
                weight = tl.load(class_weight_ptr + columns, mask=inside, other=0.0)
                # A masked class has weight 0 and a score of -inf.
                smooth = tl.where(weight != 0.0, smooth + weight * score, smooth)
            # One exponential gives both the factor of the sum so far and the score's own part.
            difference = score - largest
            fading = tl.exp2(-tl.abs(difference) * LOG2_E)
            rises = difference > 0.0
            decay = tl.where(rises, fading, 1.0)
            fresh = tl.where(rises, 1.0, fading)
            total = total * decay + fresh
            if ENTROPY:
                weighted = weighted * decay + fresh * tl.where(fresh > 0.0, score, 0.0)
            largest = tl.maximum(largest, score)
        # Read before the reductions, at which warps wait for each other: after them another may have overwritten it.
        here = (target >= 0) & (target < VOCABULARY)
        picked, _ = _scores(
            logits, bias_ptr, numbers_ptr, target, VOCABULARY, STRIDE, HAS_BIAS, SOFTCAP, TEMPERED, COMPUTE
        )
        anchor = tl.max(largest)
        decay = tl.exp2((largest - anchor) * LOG2_E)
        mass = tl.sum(total * decay)
        lse = anchor + tl.log(mass)
        tl.store(lse_ptr + row, lse)
        tl.store(picked_ptr + row, tl.where(here, picked, 0.0 if PARTIAL else float("nan")))
        if SMOOTH:
            tl.store(smooth_ptr + row, tl.sum(smooth))
        if ENTROPY:
            tl.store(entropy_ptr + row, lse - tl.sum(weighted * decay) / mass)
    else:
        lse = tl.load(lse_ptr + row)
    if GRADIENT:
        of_lse = tl.load(of_lse_ptr + row)
        of_picked = tl.load(of_picked_ptr + row)
        if SQUARE:
            of_lse += tl.load(of_square_ptr + row) * lse
        if SMOOTH:
            of_smooth = tl.load(of_smooth_ptr + row)
        if ENTROPY:
            entropy = tl.load(entropy_ptr + row)
            of_entropy = tl.load(of_entropy_ptr + row)
        for begin in range(0, VOCABULARY, BLOCK):
            columns = begin + tl.arange(0, BLOCK)
            inside = columns < VOCABULARY
            score, slope = _scores(
                logits, bias_ptr, numbers_ptr, columns, VOCABULARY, STRIDE, HAS_BIAS, SOFTCAP, TEMPERED, COMPUTE
            )
            probability = tl.exp2((score - lse) * LOG2_E)
            gradient = of_lse * probability
            if ENTROPY:
                surprise = probability * tl.where(probability > 0.0, score - lse + entropy, 0.0)
                gradient -= of_entropy * surprise
            gradient = tl.where(columns == target, gradient + of_picked, gradient)
            if SMOOTH:
                gradient += of_smooth * tl.load(class_weight_ptr + columns, mask=inside, other=0.0)
            tl.store(logits + columns, (gradient * slope).to(logits_ptr.dtype.element_ty), mask=columns < STRIDE)
