"""Triton kernels of linear cross-entropy: one on a chunk's logits in place, two that never write logits at all.

Set ``TRITON_INTERPRET=1`` before Python starts to run them on a CPU, slowly. The interpreter multiplies bfloat16 by its
bits, hence the UPCAST right after each load, which compiled kernels leave out.
"""

# ruff: noqa: N803  (Triton's compile-time constants are written in capitals)
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]


@triton.jit
def _tanh(x):  # type: ignore[no-untyped-def]
    # By exp, which the interpreter has too; it is 1 and -1 where exp overflows and vanishes.
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


@triton.jit
def cross_entropy_kernel(  # type: ignore[no-untyped-def]
    logits_ptr, target_ptr, share_ptr, onehot_ptr, numbers_ptr, class_weight_ptr, lse_ptr, picked_ptr, smooth_ptr,
    vocabulary, softcap,
    SOFTCAP: tl.constexpr, SMOOTH: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row of logits a program: its statistics, and in place of the logits their gradient.

    ``share`` and ``onehot`` are what multiplies the row's probabilities and its target; ``numbers`` holds what every
    class has subtracted, and twice the z-loss's scale.
    """
    row = tl.program_id(0).to(tl.int64)
    logits = logits_ptr + row * vocabulary
    target = tl.load(target_ptr + row)
    largest = float("-inf")
    total = 0.0
    smooth = 0.0
    for start in range(0, vocabulary, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < vocabulary
        score = tl.load(logits + columns, mask=inside, other=float("-inf")).to(tl.float32)
        if SOFTCAP:
            score = tl.where(inside, softcap * _tanh(score / softcap), float("-inf"))
        if SMOOTH:
            weight = tl.load(class_weight_ptr + columns, mask=inside, other=0.0)
            smooth += tl.sum(weight * tl.where(inside, score, 0.0))
        before = largest
        largest = tl.maximum(largest, tl.max(score))
        anchor = tl.where(largest == float("-inf"), 0.0, largest)
        total = total * tl.exp(before - anchor) + tl.sum(tl.exp(score - anchor))
    lse = largest + tl.log(total)
    picked = tl.load(logits + target).to(tl.float32)
    if SOFTCAP:
        picked = softcap * _tanh(picked / softcap)
    tl.store(lse_ptr + row, lse)
    tl.store(picked_ptr + row, picked)
    if SMOOTH:
        tl.store(smooth_ptr + row, smooth)
    if GRADIENT:
        factor = tl.load(share_ptr + row) + tl.load(numbers_ptr + 1) * lse
        onehot = tl.load(onehot_ptr + row)
        smoothing = tl.load(numbers_ptr)
        for start in range(0, vocabulary, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            inside = columns < vocabulary
            score = tl.load(logits + columns, mask=inside, other=0.0).to(tl.float32)
            slope = 1.0
            if SOFTCAP:
                bent = _tanh(score / softcap)
                score = softcap * bent
                slope = 1.0 - bent * bent
            gradient = factor * tl.exp(score - lse)
            if SMOOTH:
                gradient -= smoothing * tl.load(class_weight_ptr + columns, mask=inside, other=0.0)
            gradient = tl.where(columns == target, gradient - onehot, gradient) * slope
            tl.store(logits + columns, gradient.to(logits_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _scores(  # type: ignore[no-untyped-def]
    hidden_ptr, weight_ptr, bias_ptr, rows, columns, row_mask, column_mask, softcap,
    WIDTH: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTCAP: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    score = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, WIDTH, INNER):
        d = start + tl.arange(0, INNER)
        e = tl.load(
            hidden_ptr + rows[:, None] * WIDTH + d[None, :], mask=row_mask[:, None] & (d < WIDTH)[None, :], other=0.0
        )
        w = tl.load(
            weight_ptr + columns[None, :] * WIDTH + d[:, None],
            mask=column_mask[None, :] & (d < WIDTH)[:, None],
            other=0.0,
        )
        if UPCAST:
            e = e.to(tl.float32)
            w = w.to(tl.float32)
        score = tl.dot(e, w, score, input_precision="ieee")
    if HAS_BIAS:
        score += tl.load(bias_ptr + columns, mask=column_mask, other=0.0).to(tl.float32)[None, :]
    slope = tl.full((ROWS, COLUMNS), 1.0, tl.float32)
    if SOFTCAP:
        bent = _tanh(score / softcap)
        score = softcap * bent
        slope = 1.0 - bent * bent
    return score, slope


@triton.jit
def head_forward_kernel(  # type: ignore[no-untyped-def]
    hidden_ptr, weight_ptr, bias_ptr, target_ptr, class_weight_ptr, lse_ptr, picked_ptr, smooth_ptr,
    tokens, vocabulary, softcap,
    WIDTH: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTCAP: tl.constexpr, SMOOTH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A block of tokens a program, past the whole vocabulary: their logsumexps and their targets' scores."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    row_mask = rows < tokens
    target = tl.load(target_ptr + rows, mask=row_mask, other=-1)
    largest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    picked = tl.zeros((ROWS,), tl.float32)
    smooth = tl.zeros((ROWS,), tl.float32)
    for start in range(0, vocabulary, COLUMNS):
        columns = (start + tl.arange(0, COLUMNS)).to(tl.int64)
        column_mask = columns < vocabulary
        score, _ = _scores(
            hidden_ptr,
            weight_ptr,
            bias_ptr,
            rows,
            columns,
            row_mask,
            column_mask,
            softcap,
            WIDTH,
            HAS_BIAS,
            SOFTCAP,
            ROWS,
            COLUMNS,
            INNER,
            UPCAST,
        )
        picked += tl.sum(tl.where(columns[None, :] == target[:, None], score, 0.0), 1)
        if SMOOTH:
            weight = tl.load(class_weight_ptr + columns, mask=column_mask, other=0.0)
            smooth += tl.sum(score * weight[None, :], 1)
        score = tl.where(column_mask[None, :], score, float("-inf"))
        before = largest
        largest = tl.maximum(largest, tl.max(score, 1))
        anchor = tl.where(largest == float("-inf"), 0.0, largest)
        total = total * tl.exp(before - anchor) + tl.sum(tl.exp(score - anchor[:, None]), 1)
    tl.store(lse_ptr + rows, largest + tl.log(total), mask=row_mask)
    tl.store(picked_ptr + rows, picked, mask=row_mask)
    if SMOOTH:
        tl.store(smooth_ptr + rows, smooth, mask=row_mask)


@triton.jit
def head_backward_kernel(  # type: ignore[no-untyped-def]
    hidden_ptr, weight_ptr, bias_ptr, target_ptr, class_weight_ptr, lse_ptr, share_ptr, onehot_ptr, smoothing_ptr,
    grad_hidden_ptr, grad_weight_ptr, grad_bias_ptr, tokens, vocabulary, softcap, filter_eps,
    WIDTH: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTCAP: tl.constexpr, SMOOTH: tl.constexpr, FILTER: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A tile of tokens and vocabulary a program: its scores again, and its share of all three gradients."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    columns = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    row_mask = rows < tokens
    column_mask = columns < vocabulary
    both = row_mask[:, None] & column_mask[None, :]
    score, slope = _scores(
        hidden_ptr,
        weight_ptr,
        bias_ptr,
        rows,
        columns,
        row_mask,
        column_mask,
        softcap,
        WIDTH,
        HAS_BIAS,
        SOFTCAP,
        ROWS,
        COLUMNS,
        INNER,
        UPCAST,
    )
    lse = tl.load(lse_ptr + rows, mask=row_mask, other=0.0)
    target = tl.load(target_ptr + rows, mask=row_mask, other=-1)
    hit = columns[None, :] == target[:, None]
    probability = tl.where(both, tl.exp(score - lse[:, None]), 0.0)
    kept = True
    if FILTER:
        kept = tl.max(tl.abs(tl.where(hit, probability - 1.0, probability))) >= filter_eps
    if kept:
        gradient = probability * tl.load(share_ptr + rows, mask=row_mask, other=0.0)[:, None]
        onehot = tl.load(onehot_ptr + rows, mask=row_mask, other=0.0)
        gradient = tl.where(hit, gradient - onehot[:, None], gradient)
        if SMOOTH:
            smoothing = tl.load(smoothing_ptr + rows, mask=row_mask, other=0.0)
            weight = tl.load(class_weight_ptr + columns, mask=column_mask, other=0.0)
            gradient -= smoothing[:, None] * weight[None, :]
        gradient = tl.where(both, gradient * slope, 0.0)
        if HAS_BIAS:
            tl.atomic_add(grad_bias_ptr + columns, tl.sum(gradient, 0), mask=column_mask)
        g = gradient
        if not UPCAST:
            g = gradient.to(hidden_ptr.dtype.element_ty)
        for start in range(0, WIDTH, INNER):
            d = start + tl.arange(0, INNER)
            width_mask = d < WIDTH
            e = tl.load(
                hidden_ptr + rows[:, None] * WIDTH + d[None, :], mask=row_mask[:, None] & width_mask[None, :], other=0.0
            )
            w = tl.load(
                weight_ptr + columns[:, None] * WIDTH + d[None, :],
                mask=column_mask[:, None] & width_mask[None, :],
                other=0.0,
            )
            if UPCAST:
                e = e.to(tl.float32)
                w = w.to(tl.float32)
            tl.atomic_add(
                grad_hidden_ptr + rows[:, None] * WIDTH + d[None, :],
                tl.dot(g, w, input_precision="ieee"),
                mask=row_mask[:, None] & width_mask[None, :],
            )
            tl.atomic_add(
                grad_weight_ptr + columns[:, None] * WIDTH + d[None, :],
                tl.dot(tl.trans(g), e, input_precision="ieee"),
                mask=column_mask[:, None] & width_mask[None, :],
            )
