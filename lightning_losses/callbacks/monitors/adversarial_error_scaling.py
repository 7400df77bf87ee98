"""Watches how the error under attack grows with the size of the attack: as a power law, until it saturates."""

import math
from collections.abc import Mapping, Sequence

import lightning as L
import torch
from jaxtyping import Int
from torch import Tensor, nn

from lightning_losses.attacks.gradient_attack import GradientAttack
from lightning_losses.callbacks.monitors.attack_monitor import AttackMonitor, Sums
from lightning_losses.diagnostics.attacked_accuracy import attacked_rows, with_epsilon
from lightning_losses.numerics.settings import Positive, Share
from lightning_losses.plots.grokking import fraction_curves
from lightning_losses.plots.style import Figure


class AdversarialErrorScaling(AttackMonitor):
    """Logs the error under attacks of growing size, and the exponent of the power law that it follows.

    Of the samples that are right as they are, ``error_<ε>`` is the share that an attack within ε fools. Over small ε it
    grows as ``A ε^B``; ``exponent`` is B, the slope of least squares through log error over log ε of the errors above 0
    and at most `saturation`, of which there must be two. The exponent is about 1 where differences of the two largest
    logits are as frequent near 0 as a little farther off; ``gap`` is their mean, ``gap_below`` the share below
    `small_gap`. A penalty on the entropy of predictions moves that share.

    Cost: for each batch of validation and test, the passes of an attack for each radius.

    Args:
        attack: the attack whose radius is changed; the length of PGD's steps changes with it.
        epsilons: the radii, above 0, of which at least two.
        saturation: the largest error that the slope is fitted to, above 0.
        small_gap: in nats, the unit of logits, above 0.
        every_n_epochs, max_batches, ignore_index, folder: see `AttackMonitor`.

    Raises:
        ValueError: fewer than two radii, or one that is not above 0; options out of range.

    Source:
        Cubuk, Zoph, Schoenholz, Le, 2017, "Intriguing Properties of Adversarial Examples", arXiv:1711.02846, who fit
        the error of all samples; here those that are wrong without an attack are left out, since their share is no
        power of ε.

    Example:
        >>> from lightning_losses.attacks import FGSM
        >>> AdversarialErrorScaling(FGSM(), epsilons=[0.01, 0.02, 0.04]).saturation
        0.5
    """

    name = "adversarial_error_scaling"

    attack: GradientAttack
    epsilons: Sequence[float]
    saturation: Share = 0.5
    small_gap: Positive = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.attack, GradientAttack):
            raise ValueError(
                f"{self.name}: attack={type(self.attack).__name__} came, which has no ball; give FGSM, PGD or PMA."
            )
        epsilons = list(self.epsilons) if isinstance(self.epsilons, Sequence) else [self.epsilons]
        numbers = all(isinstance(epsilon, int | float) and 0 < epsilon < math.inf for epsilon in epsilons)
        if not numbers or len(epsilons) < 2 or len({f"{epsilon:g}" for epsilon in epsilons}) < len(epsilons):
            raise ValueError(
                f"{self.name}: epsilons={epsilons} came; give at least two different numbers above 0, such as "
                "[0.01, 0.02, 0.04]."
            )

    def sums(
        self,
        trainer: L.Trainer,
        network: nn.Module,
        inputs: Tensor,
        target: Int[Tensor, " rows"],
        keys: Int[Tensor, " rows"] | None,
    ) -> Mapping[str, Tensor]:
        """Fooled samples by radius, and gaps between the largest logits."""
        attack = self.told(trainer, self.attack)
        attacks = {f"{epsilon:g}": with_epsilon(attack, epsilon) for epsilon in self.epsilons}
        right, logits = attacked_rows(network, inputs, target, attacks, keys=keys)
        largest = logits.double().topk(2, dim=-1).values if logits.device.type != "mps" else logits.topk(2).values
        gap = largest[:, 0] - largest[:, 1]
        fooled = {name: (right["clean"] & ~right[name]).sum().view(1) for name in attacks}
        gaps = {"gap": gap.sum().view(1), "gap_below": (gap < self.small_gap).sum().view(1)}
        return {"samples": gap.new_full((1,), len(gap)), "clean": right["clean"].sum().view(1), **gaps, **fooled}

    def summary(self, sums: Sums) -> dict[str, float]:
        """The errors, the exponent and the gaps."""
        total = {name: value.item() for name, value in sums.items()}
        values = {name: total[name] / total["samples"] for name in ("gap", "gap_below")}
        if not total["clean"]:
            return values
        errors = {epsilon: total[f"{epsilon:g}"] / total["clean"] for epsilon in self.epsilons}
        values |= {f"error_{epsilon:g}": error for epsilon, error in errors.items()}
        exponent = power_law_exponent(errors, self.saturation)
        return values if math.isnan(exponent) else {**values, "exponent": exponent}

    def figure(self) -> Figure:
        """The errors over steps."""
        errors = {name: curve for name, curve in self.curves().items() if "error_" in name}
        return fraction_curves(errors, ylabel="error under attack (%)")


def power_law_exponent(errors: Mapping[float, float], saturation: float = 1.0) -> float:
    """The slope of least squares through log error over log size; NaN of fewer than two errors that count.

    Args:
        errors: by size; those of 0 and those above `saturation` don't count.
        saturation: the largest error that counts.

    Example:
        >>> round(power_law_exponent({0.01: 0.02, 0.02: 0.08, 0.04: 0.32, 0.08: 0.9}, 0.5), 6)
        2.0
    """
    counted = {size: error for size, error in errors.items() if 0 < error <= saturation}
    if len(counted) < 2:
        return math.nan
    x, y = (torch.tensor(list(part), dtype=torch.float64).log() for part in (counted.keys(), counted.values()))
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())
