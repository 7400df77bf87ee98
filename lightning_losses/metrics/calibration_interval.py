"""Confidence intervals of binned calibration errors, valid also for a calibrated model."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.bins import Binned, bin_sums, binned
from lightning_losses.metrics.bootstrap import Interval, check_resampling, quantile_of

Error = Callable[[Binned], Float[Tensor, "*resamples"]]
# Two successes and two failures are added to a bin before its noise is drawn.
_ADDED = 4.0
_CHUNK = 1 << 22


def calibration_interval(
    confidence: Float[Tensor, "rows columns"],
    outcome: Float[Tensor, "rows columns"],
    index: Int[Tensor, "rows columns"],
    num_bins: int,
    error: Error,
    population: Error,
    *,
    exclusive: bool,
    level: float = 0.95,
    resamples: int = 500,
    seed: int = 0,
) -> Interval:
    """The confidence interval of a binned calibration error; it contains the estimate, and lies in the error's range.

    The bootstrap fails here: noise alone makes gaps, resampling adds as much noise again, and for a calibrated model
    the error is on the boundary of its range. So the low end is 0 unless calibration is rejected. The test of
    calibration draws outcomes from the confidences themselves (consistency resampling); it does not reject if their
    errors reach the observed error with a probability of at least ``1 - level``. Otherwise each end inverts a test: the
    observed gaps are shrunk or widened by k standard errors, outcomes are drawn around them, and k is chosen so that
    the observed error is at a tail quantile of the drawn errors. If the gaps are neither 0 nor well above their noise,
    the interval is conservative.

    Args:
        confidence: [N, C] the predicted probabilities.
        outcome: [N, C] the outcomes.
        index: [N, C] the bins.
        num_bins: B.
        error: maps bins to the error; leading dimensions are resamples.
        population: the same function for gaps without noise: `error` without its debiasing.
        exclusive: whether exactly one column of each row is true, as with classes. Otherwise columns are labels, which
            may depend on each other: then the deviations of a row's outcomes keep or change their signs together.
        level: the confidence, in (0, 1).
        resamples: number of draws of the outcomes.
        seed: seed of the draws, which are made on the CPU.

    Source:
        Bröcker, Smith, 2007, "Increasing the Reliability of Reliability Diagrams" (consistency resampling);
        Vaicenavicius et al., 2019, "Evaluating Model Calibration in Classification", arXiv:1902.06977 (the test);
        Carpenter, 1999, "Test Inversion Bootstrap Confidence Intervals"; Andrews, 2000, "Inconsistency of the Bootstrap
        when a Parameter Is on the Boundary of the Parameter Space"; Agresti, Coull, 1998 (the added outcomes); Cameron,
        Gelbach, Miller, 2008, "Bootstrap-Based Improvements for Inference with Clustered Errors" (signs by row).
    """
    check_resampling("calibration_interval", level, resamples)
    device, tail = confidence.device, (1 - level) / 2
    confidence, outcome, index = confidence.cpu().double(), outcome.cpu(), index.cpu()
    sums = bin_sums(confidence, outcome, index, num_bins)
    count, mean, frequency = bins = binned(sums)
    estimate = float(error(bins))
    if len(confidence) == 0:
        nothing = torch.full((), torch.nan, dtype=torch.float64, device=device)
        return Interval(nothing, nothing)
    generator = torch.Generator().manual_seed(seed)
    filled = count.clamp(min=1)
    gap = frequency - mean

    together = confidence.shape[-1] > 1 and not exclusive

    def noise_about(probabilities: Tensor) -> Tensor:
        if together:
            return _turned(outcome - probabilities, index, num_bins, resamples, generator) / filled
        counts = _drawn(probabilities, index, num_bins, exclusive, resamples, generator)
        return (counts - bin_sums(confidence, probabilities, index, num_bins)[2]) / filled

    prior = mean if exclusive else torch.full_like(mean, 0.5)
    smooth = (sums[2] + _ADDED * prior) / (count + _ADDED)
    columns = torch.arange(confidence.shape[-1])
    about = (confidence + (smooth - mean)[index, columns]).clamp(0, 1)
    about = about / about.sum(dim=-1, keepdim=True).clamp(min=1e-300) if exclusive else about
    null, noise = noise_about(confidence), noise_about(about)
    if together:
        # For a calibrated model the variance is known; equal outcomes in a bin would underestimate it.
        squares, variances = (outcome - confidence).square(), confidence * (1 - confidence)
        seen, known = (bin_sums(confidence, each, index, num_bins)[2] for each in (squares, variances))
        null = null * (known / seen.clamp(min=1e-300)).sqrt()
    deviation = noise.square().mean(dim=0).sqrt()
    # Another sample would fill the bins differently; the noise follows the drawn counts.
    counts = torch.poisson(count.expand_as(noise).contiguous(), generator=generator)
    counts = torch.where(counts.sum(dim=-2, keepdim=True) > 0, counts, count)
    scaled = noise * (count / counts.clamp(min=1)).sqrt()

    def widened(k: float) -> Tensor:
        moved = gap.sign() * (gap.abs() + k * deviation).clamp(min=0)
        return (mean + moved).clamp(0, 1)

    def end(noise: Tensor, counts: Tensor, quantile: float, low: float, high: float, outwards: int) -> float:
        """The largest error whose `quantile` is at most the observed error, rounded slightly down (0) or up (1)."""
        # Bisection to less than the noise of the resamples.
        for _ in range(8):
            k = (low + high) / 2
            values = error(Binned(counts, mean, widened(k) + noise))
            low, high = (k, high) if quantile_of(values, quantile) <= estimate + 1e-12 else (low, k)
        return float(population(Binned(count, mean, widened((low, high)[outwards]))))

    same = count.expand_as(null)
    reached = error(Binned(same, mean, mean + null)) >= estimate - 1e-12
    furthest = float(torch.where(deviation > 0, gap.abs() / deviation.clamp(min=1e-12), 0.0).max()) + 1e-9
    low = 0.0
    if (1 + int(reached.sum())) / (1 + resamples) < 2 * tail:
        low = end(scaled, counts, 1 - tail, -furthest, 0.0, 0) or end(null, same, 1 - 2 * tail, -furthest, 0.0, 0)
    high = end(scaled, counts, tail, -furthest, 8.0, 1)
    ends = (min(low, estimate), max(high, estimate))
    return Interval(*(torch.tensor(value, dtype=torch.float64, device=device) for value in ends))


def _drawn(
    probabilities: Float[Tensor, "rows columns"],
    index: Int[Tensor, "rows columns"],
    num_bins: int,
    exclusive: bool,
    resamples: int,
    generator: torch.Generator,
) -> Float[Tensor, "resamples bins columns"]:
    """The number of true outcomes in each bin, drawn from probabilities."""
    rows, columns = probabilities.shape
    slot = index * columns + torch.arange(columns)
    each = rows if exclusive else rows * columns
    counts = []
    most = max(_CHUNK // each, 1)
    for start in range(0, resamples, most):
        some = min(most, resamples - start)
        uniform = torch.rand(each, some, generator=generator, dtype=torch.float64)
        if exclusive:
            ends = probabilities.cumsum(dim=-1)
            chosen = torch.searchsorted(ends, uniform * ends[:, -1:]).clamp(max=columns - 1)
            place = slot.gather(1, chosen).T
            zeros = torch.zeros(some, num_bins * columns, dtype=torch.float64)
            counts.append(zeros.scatter_add_(1, place, torch.ones_like(place, dtype=torch.float64)))
        else:
            true = (uniform < probabilities.reshape(-1, 1)).double()
            zeros = torch.zeros(num_bins * columns, some, dtype=torch.float64)
            counts.append(zeros.index_add_(0, slot.reshape(-1), true).T)
    return torch.cat(counts).reshape(resamples, num_bins, columns)


def _turned(
    deviations: Float[Tensor, "rows columns"],
    index: Int[Tensor, "rows columns"],
    num_bins: int,
    resamples: int,
    generator: torch.Generator,
) -> Float[Tensor, "resamples bins columns"]:
    """The sum of deviations in each bin, with random signs for whole rows."""
    rows, columns = deviations.shape
    slot = (index * columns + torch.arange(columns)).reshape(-1)
    sums = []
    most = max(_CHUNK // deviations.numel(), 1)
    for start in range(0, resamples, most):
        some = min(most, resamples - start)
        signs = 2.0 * torch.randint(2, (rows, 1, some), generator=generator) - 1
        turned = (signs * deviations.unsqueeze(-1)).reshape(-1, some)
        zeros = torch.zeros(num_bins * columns, some, dtype=torch.float64)
        sums.append(zeros.index_add_(0, slot, turned).T)
    return torch.cat(sums).reshape(resamples, num_bins, columns)
