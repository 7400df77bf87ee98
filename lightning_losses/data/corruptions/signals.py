"""Eight corruptions of signals; the strength of each at five severities stands in `SIGNAL_CORRUPTIONS`.

Heights are in units of the signal's own standard deviation, so that they mean the same for every scale.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lightning_losses.data.corruptions.images import Kind, normal_weights

Signal = Float[Tensor, "channels length"]


def gaussian_noise(signal: Signal, deviations: float, generator: torch.Generator) -> Signal:
    """Adds normal noise of so many standard deviations of the signal."""
    return signal + deviations * _unit(signal) * torch.randn(signal.shape, generator=generator).to(signal)


def impulse_noise(signal: Signal, share: float, generator: torch.Generator) -> Signal:
    """Sets this share of the values, chosen at random, three standard deviations above or below the mean."""
    chance = torch.rand(signal.shape, generator=generator).to(signal.device)
    mean, height = signal.mean(), 3 * _unit(signal)
    return torch.where(chance < share / 2, mean - height, torch.where(chance < share, mean + height, signal))


def smoothing(signal: Signal, deviation: float, generator: torch.Generator) -> Signal:
    """Averages with normal weights, whose standard deviation is in positions; outside, the edge goes on."""
    weights = normal_weights(deviation).to(signal)
    padded = functional.pad(signal, (len(weights) // 2,) * 2, mode="replicate").unsqueeze(1)
    return functional.conv1d(padded, weights.view(1, 1, -1)).squeeze(1)


def shift(signal: Signal, positions: float, generator: torch.Generator) -> Signal:
    """Rolls by so many positions, in a random direction; what leaves at one end comes in at the other."""
    return signal.roll(int(_sign(generator) * positions), dims=-1)


def scaling(signal: Signal, exponent: float, generator: torch.Generator) -> Signal:
    """Multiplies by e to this exponent, or divides by it, at random."""
    return signal * torch.tensor(_sign(generator) * exponent).exp()


def offset(signal: Signal, deviations: float, generator: torch.Generator) -> Signal:
    """Adds a constant of so many standard deviations, of a random sign."""
    return signal + _sign(generator) * deviations * _unit(signal)


def drift(signal: Signal, deviations: float, generator: torch.Generator) -> Signal:
    """Adds a straight line from minus to plus so many standard deviations, or the other way round."""
    return signal + _sign(generator) * deviations * _unit(signal) * torch.linspace(-1, 1, signal.shape[-1]).to(signal)


def dropout(signal: Signal, share: float, generator: torch.Generator) -> Signal:
    """Sets a stretch of this share of the length to the signal's mean, at a random place."""
    length = round(share * signal.shape[-1])
    begin = int(torch.randint(signal.shape[-1] - length + 1, (), generator=generator))
    gone = signal.clone()
    gone[..., begin : begin + length] = signal.mean()
    return gone


def _unit(signal: Signal) -> Tensor:
    return signal.std(correction=0)


def _sign(generator: torch.Generator) -> int:
    return 2 * int(torch.randint(2, (), generator=generator)) - 1


SIGNAL_CORRUPTIONS = {
    "gaussian_noise": Kind(gaussian_noise, (0.2, 0.4, 0.6, 0.8, 1.0)),
    "impulse_noise": Kind(impulse_noise, (0.03, 0.06, 0.1, 0.15, 0.2)),
    "smoothing": Kind(smoothing, (0.7, 1.1, 1.5, 2.0, 2.5)),
    "shift": Kind(shift, (1, 2, 4, 6, 8)),
    "scaling": Kind(scaling, (0.2, 0.4, 0.6, 0.9, 1.2)),
    "offset": Kind(offset, (0.2, 0.4, 0.7, 1.0, 1.5)),
    "drift": Kind(drift, (0.3, 0.6, 1.0, 1.5, 2.0)),
    "dropout": Kind(dropout, (0.1, 0.15, 0.2, 0.3, 0.4)),
}
