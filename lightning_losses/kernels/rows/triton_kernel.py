"""The Triton kernel of distillation between two heads: one program per row of both scores, gradients in place.

Loops are bounded by constants, which the interpreter of every Triton version accepts. The interpreter multiplies
bfloat16 wrongly, by its bits, so values become float32 right after each load.
"""

# ruff: noqa: N803  (Triton's compile-time constants are written in capitals)
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

from lightning_losses.kernels.rows.triton_objectives import ABSENT, ZERO

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _scores(row_ptr, bias_ptr, columns, VOCABULARY: tl.constexpr, WIDTH: tl.constexpr, HAS_BIAS: tl.constexpr):  # type: ignore[no-untyped-def]
    # The mask includes the row's padding, so that loads stay wide for an odd vocabulary size.
    score = tl.load(row_ptr + columns, mask=columns < WIDTH, other=float("-inf")).to(tl.float32)
    if HAS_BIAS:
        score += tl.load(bias_ptr + columns, mask=columns < VOCABULARY, other=0.0).to(tl.float32)
    return score if WIDTH == VOCABULARY else tl.where(columns < VOCABULARY, score, float("-inf"))


@triton.jit
def _picked(row_ptr, bias_ptr, target, VOCABULARY: tl.constexpr, HAS_BIAS: tl.constexpr):  # type: ignore[no-untyped-def]
    # The target's score in base 2; NaN for a target outside the vocabulary, so that the error shows.
    inside = (target >= 0) & (target < VOCABULARY)
    score = tl.load(row_ptr + target, mask=inside, other=float("nan")).to(tl.float32)
    if HAS_BIAS:
        score += tl.load(bias_ptr + target, mask=inside, other=0.0).to(tl.float32)
    return score * LOG2E


@triton.jit
def _raised(largest, score):  # type: ignore[no-untyped-def]
    # A running maximum; one exponential gives both the factor of the sums so far and the score's own weight.
    difference = score - largest
    fading = tl.exp2(-tl.abs(difference))
    rises = difference > 0.0
    return tl.maximum(largest, score), tl.where(rises, fading, 1.0), tl.where(rises, 1.0, fading)


@triton.jit
def _settled(largest, total):  # type: ignore[no-untyped-def]
    # The row's logsumexp in base 2, and the factors that turn vectors of weighted sums into expectations.
    top = tl.max(largest, 0)
    scale = tl.exp2(largest - top)
    whole = tl.sum(total * scale, 0)
    return top + tl.log2(whole), scale / whole


@triton.jit
def _joined(lse, score):  # type: ignore[no-untyped-def]
    top = tl.maximum(lse, score)
    return top + tl.log2(1.0 + tl.exp2(tl.minimum(lse, score) - top))


@triton.jit
def _logarithm(softened, lse):  # type: ignore[no-untyped-def]
    log = (softened - lse) * LN2
    return tl.where(log < ABSENT, ABSENT, log)


@triton.jit
def distillation_kernel(  # type: ignore[no-untyped-def]
    student_ptr, teacher_ptr, student_bias_ptr, teacher_bias_ptr, target_ptr, share_ptr, soft_ptr, hard_ptr,
    sharpness, a, b, factor, slope_weight, soft_weight, hard_weight,
    SLOPE: tl.constexpr, TERM: tl.constexpr, FORWARD: tl.constexpr, REVERSE: tl.constexpr, EXCLUDE: tl.constexpr,
    HARD: tl.constexpr, SOFTENED: tl.constexpr, GRADIENT: tl.constexpr,
    STUDENT_BIAS: tl.constexpr, TEACHER_BIAS: tl.constexpr, VOCABULARY: tl.constexpr,
    STUDENT_STRIDE: tl.constexpr, TEACHER_STRIDE: tl.constexpr, TEACHER_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Computes a row's divergence and cross-entropy, and overwrites the student's scores by their gradient.

    The first pass computes the sums of both softmaxes and the expectations that KL divergences need; a second pass the
    sums of a divergence with a TERM; the last one writes. A row with share 0 is not read.

    Args:
        student_ptr, teacher_ptr: rows of scores, STUDENT_STRIDE and TEACHER_STRIDE apart; TEACHER_WIDTH entries of a
            teacher's row may be read.
        sharpness: log2(e) / τ.
        factor: the factor of the divergence's value.
        slope_weight: soft_weight * factor / τ, the factor of the gradient with respect to the softened scores.
        HARD: whether cross-entropy at temperature 1, times hard_weight, is added.
        SOFTENED: whether τ is not 1.
    """
    row = tl.program_id(0).to(tl.int64)
    student = student_ptr + row * STUDENT_STRIDE
    teacher = teacher_ptr + row * TEACHER_STRIDE
    block = tl.arange(0, BLOCK)
    zeros = tl.zeros((BLOCK,), tl.float32)
    share = tl.load(share_ptr + row)
    if share == 0.0:
        tl.store(soft_ptr + row, 0.0)
        if HARD:
            tl.store(hard_ptr + row, 0.0)
        if GRADIENT:
            for start in range(0, VOCABULARY, BLOCK):
                columns = start + block
                tl.store(student + columns, zeros.to(student_ptr.dtype.element_ty), mask=columns < STUDENT_STRIDE)
        return

    target = tl.load(target_ptr + row) if HARD or EXCLUDE else -1
    low = tl.full((BLOCK,), ABSENT, tl.float32)
    s_largest, t_largest, s_whole_largest, t_whole_largest = low, low, low, low
    s_total, t_total, s_whole_total, t_whole_total = zeros, zeros, zeros, zeros
    t_gain, t_mass, s_gain, s_mass = zeros, zeros, zeros, zeros
    for start in tl.range(0, VOCABULARY, BLOCK, num_stages=STAGES):
        columns = start + block
        s_score = _scores(student, student_bias_ptr, columns, VOCABULARY, STUDENT_STRIDE, STUDENT_BIAS)
        t_score = _scores(teacher, teacher_bias_ptr, columns, VOCABULARY, TEACHER_WIDTH, TEACHER_BIAS)
        if SOFTENED and (HARD or EXCLUDE):
            s_whole_largest, old, new = _raised(s_whole_largest, s_score * LOG2E)
            s_whole_total = s_whole_total * old + new
        if SOFTENED and EXCLUDE:
            t_whole_largest, old, new = _raised(t_whole_largest, t_score * LOG2E)
            t_whole_total = t_whole_total * old + new
        s_score *= sharpness
        t_score *= sharpness
        if EXCLUDE:
            s_score = tl.where(columns == target, float("-inf"), s_score)
            t_score = tl.where(columns == target, float("-inf"), t_score)
        s_largest, s_old, s_new = _raised(s_largest, s_score)
        s_total = s_total * s_old + s_new
        t_largest, t_old, t_new = _raised(t_largest, t_score)
        t_total = t_total * t_old + t_new
        s_there, t_there = s_score > ABSENT, t_score > ABSENT
        both = s_there & t_there
        if FORWARD:
            gain = -tl.where(both, s_score, 0.0)
            if not EXCLUDE:
                gain += tl.where(t_there, t_score, 0.0)
            t_gain = t_gain * t_old + t_new * gain
            t_mass = t_mass * t_old + tl.where(both, t_new, 0.0)
        if REVERSE:
            s_gain = s_gain * s_old + s_new * (tl.where(s_there, s_score, 0.0) - tl.where(both, t_score, 0.0))
            s_mass = s_mass * s_old + tl.where(both, s_new, 0.0)
    # Read before the reductions, at which warps wait for each other: after them another may have overwritten it.
    if HARD or EXCLUDE:
        s_picked = _picked(student, student_bias_ptr, target, VOCABULARY, STUDENT_BIAS)
    if EXCLUDE:
        t_picked = _picked(teacher, teacher_bias_ptr, target, VOCABULARY, TEACHER_BIAS)
    s_lse, s_scale = _settled(s_largest, s_total)
    t_lse, t_scale = _settled(t_largest, t_total)

    # The divergence and the sum of its slopes.
    value = 0.0
    slopes = 0.0
    if FORWARD:
        mass = tl.sum(t_mass * t_scale, 0)
        # The teacher's probability on classes that the student masks; exactly 0 without masked classes.
        lost = tl.sum((t_total - t_mass) * t_scale, 0)
        gain = tl.sum(t_gain * t_scale, 0) + (s_lse if EXCLUDE else s_lse - t_lse) * mass
        if not EXCLUDE:
            gain -= t_lse * lost
        value += a * (LN2 * gain - ZERO * lost)
        slopes -= a * mass
    if REVERSE:
        mass = tl.sum(s_mass * s_scale, 0)
        lost = tl.sum((s_total - s_mass) * s_scale, 0)
        gain = (tl.sum(s_gain * s_scale, 0) + (t_lse - s_lse) * mass - s_lse * lost) * LN2 - ZERO * lost
        value += b * gain
        slopes += b * (gain + mass + lost)
    if TERM is not None:
        values, sums = zeros, zeros
        for start in tl.range(0, VOCABULARY, BLOCK, num_stages=STAGES):
            columns = start + block
            s_score = _scores(student, student_bias_ptr, columns, VOCABULARY, STUDENT_STRIDE, STUDENT_BIAS) * sharpness
            t_score = _scores(teacher, teacher_bias_ptr, columns, VOCABULARY, TEACHER_WIDTH, TEACHER_BIAS) * sharpness
            s, log_s = tl.exp2(s_score - s_lse), _logarithm(s_score, s_lse)
            t, log_t = tl.exp2(t_score - t_lse), _logarithm(t_score, t_lse)
            values += TERM(s, t, log_s, log_t, a, b)
            if GRADIENT:
                sums += SLOPE(s, t, log_s, log_t, a, b)
        value = tl.sum(values, 0)
        slopes = tl.sum(sums, 0)
    value *= factor

    # The target's cross-entropy, plain and times the teacher's probability of the target.
    onehot_weight = 0.0
    s_whole = s_lse
    rest = 1.0
    if HARD or EXCLUDE:
        if SOFTENED:
            s_whole, _ = _settled(s_whole_largest, s_whole_total)
        elif EXCLUDE:
            s_whole = _joined(s_lse, s_picked)
            rest = tl.exp2(s_lse - s_whole)
        cross_entropy = (s_whole - s_picked) * LN2
    if HARD:
        tl.store(hard_ptr + row, cross_entropy)
        onehot_weight += hard_weight
    if EXCLUDE:
        if SOFTENED:
            t_whole, _ = _settled(t_whole_largest, t_whole_total)
        else:
            t_whole = _joined(t_lse, t_picked)
        sure = tl.exp2(t_picked - t_whole)
        value += sure * cross_entropy
        onehot_weight += soft_weight * sure
    tl.store(soft_ptr + row, value)

    if GRADIENT:
        slope_share = share * slope_weight
        onehot_share = share * onehot_weight
        for start in tl.range(0, VOCABULARY, BLOCK, num_stages=STAGES):
            columns = start + block
            s_score = _scores(student, student_bias_ptr, columns, VOCABULARY, STUDENT_STRIDE, STUDENT_BIAS)
            t_score = _scores(teacher, teacher_bias_ptr, columns, VOCABULARY, TEACHER_WIDTH, TEACHER_BIAS) * sharpness
            if SOFTENED and (HARD or EXCLUDE):
                p = tl.exp2(s_score * LOG2E - s_whole)
            s_score *= sharpness
            if EXCLUDE:
                s_score = tl.where(columns == target, float("-inf"), s_score)
                t_score = tl.where(columns == target, float("-inf"), t_score)
            s, log_s = tl.exp2(s_score - s_lse), _logarithm(s_score, s_lse)
            t, log_t = tl.exp2(t_score - t_lse), _logarithm(t_score, t_lse)
            gradient = slope_share * (SLOPE(s, t, log_s, log_t, a, b) - s * slopes)
            if HARD or EXCLUDE:
                if not SOFTENED:
                    p = s * rest
                if EXCLUDE and not SOFTENED:
                    p = tl.where(columns == target, -rest, p)
                else:
                    p = tl.where(columns == target, p - 1.0, p)
                gradient += onehot_share * p
            tl.store(student + columns, gradient.to(student_ptr.dtype.element_ty), mask=columns < STUDENT_STRIDE)
