"""Triton kernels over a tile of scores in units of log 2, whose entries lie without gaps; -inf is a pair left out.

Set ``TRITON_INTERPRET=1`` before Python starts to run them on a CPU, slowly. Sizes are arguments, so that batches of
many sizes share one compiled kernel; loops over them are ``while``, since interpreters before Triton 3.8 take no tensor
as the bound of a range.
"""

# ruff: noqa: N803  (Triton's compile-time constants are written in capitals)
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

# The initial value of running maxima: below every score, but finite, so that inf - inf never occurs.
LOWEST = tl.constexpr(-1e30)


@triton.jit
def _with_score(total, largest, score):  # type: ignore[no-untyped-def]
    """A sum of powers over their largest, and that, with one more score."""
    # One exponential gives both the factor of the sum so far and the score's own part.
    difference = score - largest
    fading = tl.exp2(-tl.abs(difference))
    rises = difference > 0.0
    return tl.where(rises, total * fading + 1.0, total + fading), tl.maximum(largest, score)


@triton.jit
def row_kernel(  # type: ignore[no-untyped-def]
    scores_ptr, lse_ptr, by_row_ptr, lse_of_column_ptr, by_column_ptr, width,
    SUMS: tl.constexpr, SLOPES: tl.constexpr, BOTH: tl.constexpr,
    COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """With ``SUMS`` a row's logsumexp is computed and stored, else read; with ``SLOPES`` the scores are overwritten.

    The slope of a score is its probability in the row times `by_row`; with ``BOTH`` that in the column times
    `by_column` is added.
    """
    row = tl.program_id(0).to(tl.int64)
    scores = scores_ptr + row * width
    if SUMS:
        largest = tl.full((BLOCK,), LOWEST, COMPUTE)
        total = tl.zeros((BLOCK,), COMPUTE)
        begin = tl.full((), 0, tl.int32)
        while begin < width:
            columns = begin + tl.arange(0, BLOCK)
            score = tl.load(scores + columns, mask=columns < width, other=float("-inf"))
            total, largest = _with_score(total, largest, score)
            begin += BLOCK
        anchor = tl.max(largest)
        lse = anchor + tl.log2(tl.sum(total * tl.exp2(largest - anchor)))
        tl.store(lse_ptr + row, lse)
    else:
        lse = tl.load(lse_ptr + row)
    if SLOPES:
        # Of a row without pairs every probability is 0.
        lse = tl.maximum(lse, LOWEST)
        by_row = tl.load(by_row_ptr + row)
        begin = tl.full((), 0, tl.int32)
        while begin < width:
            columns = begin + tl.arange(0, BLOCK)
            inside = columns < width
            score = tl.load(scores + columns, mask=inside, other=float("-inf"))
            slope = by_row * tl.exp2(score - lse)
            if BOTH:
                of_column = tl.maximum(tl.load(lse_of_column_ptr + columns, mask=inside, other=0.0), LOWEST)
                by_column = tl.load(by_column_ptr + columns, mask=inside, other=0.0)
                slope += by_column * tl.exp2(score - of_column)
            tl.store(scores + columns, slope, mask=inside)
            begin += BLOCK


@triton.jit
def column_kernel(  # type: ignore[no-untyped-def]
    scores_ptr, lse_ptr, height, width, COMPUTE: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The logsumexps of ``WIDTH`` columns."""
    columns = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    largest = tl.full((HEIGHT, WIDTH), LOWEST, COMPUTE)
    total = tl.zeros((HEIGHT, WIDTH), COMPUTE)
    begin = tl.full((), 0, tl.int32)
    while begin < height:
        rows = (begin + tl.arange(0, HEIGHT)).to(tl.int64)
        inside = (rows < height)[:, None] & (columns < width)[None, :]
        places = rows[:, None] * width + columns[None, :]
        score = tl.load(scores_ptr + places, mask=inside, other=float("-inf"))
        total, largest = _with_score(total, largest, score)
        begin += HEIGHT
    anchor = tl.max(largest, axis=0)
    lse = anchor + tl.log2(tl.sum(total * tl.exp2(largest - anchor[None, :]), axis=0))
    tl.store(lse_ptr + columns, lse, mask=columns < width)
