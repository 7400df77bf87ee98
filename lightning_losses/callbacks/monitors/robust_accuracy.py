"""Watches the accuracy under attacks, and whether a network hides its gradient from them."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

import lightning as L
import torch
from jaxtyping import Int
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_losses.attacks.attack import Attack
from lightning_losses.attacks.gradient_attack import GradientAttack
from lightning_losses.callbacks.monitors.attack_monitor import AttackMonitor, Sums
from lightning_losses.diagnostics.attacked_accuracy import attacked_rows, masked_gradient, random_draws
from lightning_losses.metrics.tail_accuracy import tail_accuracy
from lightning_losses.networks.calls import in_evaluation
from lightning_losses.numerics.settings import Bound, Share, Whole
from lightning_losses.plots.grokking import fraction_curves
from lightning_losses.plots.style import Figure


class RobustAccuracy(AttackMonitor):
    """Logs the accuracy in validation and test under attacks, and warns where the network hides its gradient.

    Logged are ``clean``; each attack by its name; ``worst``, the share of the samples that are right as they are and
    under each attack; ``tail_30``, the mean of that over the 30 % of the classes where it is lowest;
    ``transfer/<network>``, where the first attack was made on a surrogate network; and ``random``, where several points
    drawn within the first attack's ball are tried. Attacks through the network must do at least as much harm as those
    without its gradient. Where they don't, the gradient is masked, and a warning says so: the number to believe is then
    the lower one.

    Cost: for each batch of validation and test, the passes of every attack, of one more for each surrogate, and three
    for each random point; `every_n_epochs` and `max_batches` make it less.

    Args:
        attacks: attacks by name, such as ``{"pgd": PGD(steps=20), "pma": PMA()}``; at least one.
        surrogates: networks by name that attacks are transferred from: trained like this one, or the members of an
            ensemble by their mean. They are neither trained nor saved.
        draws: how many random points of each sample are tried; 0 for none.
        tail: the share of the classes in the tail; see `tail_accuracy`.
        tolerance: by how much the accuracy under white-box attacks may be above that under others without a warning.
        every_n_epochs, max_batches, ignore_index, folder: see `AttackMonitor`.

    Raises:
        ValueError: no attacks, or names that are taken by what else is logged; options out of range.

    Source:
        Athalye, Carlini, Wagner, 2018, "Obfuscated Gradients Give a False Sense of Security", arXiv:1802.00420: the
        signs of a masked gradient.

    Example:
        >>> from lightning_losses.attacks import PGD
        >>> RobustAccuracy({"pgd": PGD(steps=20)}).tail
        0.3
    """

    name = "robust_accuracy"

    attacks: Mapping[str, Attack]
    surrogates: Mapping[str, nn.Module] = field(default_factory=dict)
    draws: Whole = 5
    tail: Annotated[float, Bound(above=0, most=1)] = 0.3
    tolerance: Share = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _named(self.attacks, Attack) or not self.attacks:
            raise ValueError(
                f"{self.name}: attacks={self.attacks!r} came; give at least one attack by name, such as "
                "{'pgd': PGD(steps=20)}."
            )
        if not _named(self.surrogates, nn.Module):
            raise ValueError(
                f"{self.name}: surrogates={type(self.surrogates).__name__} came; give networks by name, such as "
                "{'plain': network}."
            )
        transfers = {f"transfer/{name}" for name in self.surrogates}
        if taken := {*transfers, "clean", "worst", "random", "samples", self._tail_name} & set(self.attacks):
            raise ValueError(f"{self.name}: an attack is called {sorted(taken)[0]!r}, as another number is; rename it.")

    @property
    def _tail_name(self) -> str:
        return f"tail_{round(100 * self.tail)}"

    def sums(
        self,
        trainer: L.Trainer,
        network: nn.Module,
        inputs: Tensor,
        target: Int[Tensor, " rows"],
        keys: Int[Tensor, " rows"] | None,
    ) -> Mapping[str, Tensor]:
        """The right predictions of each class."""
        attacks = {name: self.told(trainer, attack) for name, attack in self.attacks.items()}
        within = next((attack for attack in attacks.values() if isinstance(attack, GradientAttack)), None)
        random = random_draws(within, self.draws) if within is not None and self.draws else None
        for surrogate in self.surrogates.values():
            surrogate.to(inputs.device)
        with in_evaluation(nn.ModuleList(self.surrogates.values())):
            rows = attacked_rows(network, inputs, target, attacks, surrogates=self.surrogates, random=random, keys=keys)
        classes = rows.logits.shape[-1]
        counted = {"samples": torch.ones_like(target, dtype=torch.bool), **rows.right}
        return {name: torch.bincount(target[right], minlength=classes) for name, right in counted.items()}

    def summary(self, sums: Sums) -> dict[str, float]:
        """The accuracies."""
        samples = sums["samples"]
        accuracy = {name: float(right.sum() / samples.sum()) for name, right in sums.items() if name != "samples"}
        if sentence := masked_gradient(accuracy, self.tolerance):
            rank_zero_warn(f"{self.name}: {sentence}")
        return {**accuracy, self._tail_name: float(tail_accuracy(sums["worst"] / samples, self.tail))}

    def figure(self) -> Figure:
        """The accuracies over steps."""
        return fraction_curves(self.curves(), ylabel="accuracy (%)", highlight="worst")


def _named(given: Any, kind: type) -> bool:
    return isinstance(given, Mapping) and all(isinstance(one, kind) for one in given.values())
