"""The mixin that runs every batch through the network twice more, with noise in some layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning_losses.mixins.objective import ObjectiveMixin
from lightning_losses.networks.noise_injection import NoiseInjection


class NoisyPassesMixin(ObjectiveMixin):
    """Offers the objective `noisy_logits` and `noisy_logits_b`: two more passes, with noise in some layers.

    The callback `AdaptiveNoise` chooses the layers and sets `noise_injection`. The passes run only if the objective
    takes them. In evaluation there is no noise, and the step's logits stand for both.

    Example:
        >>> import lightning, torch
        >>> from lightning_losses import NoiseFiT, Objective
        >>> from lightning_losses.networks.noise_injection import NoiseInjection
        >>> class Noisy(NoisyPassesMixin, lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 3))
        ...         self.objective = Objective({"noisefit": NoiseFiT()})
        ...     def forward(self, inputs):
        ...         return self.network(inputs)
        ...     def training_step(self, batch, batch_idx):
        ...         inputs, target = batch
        ...         return self.apply_objective(inputs=inputs, logits=self(inputs), target=target)
        >>> module = Noisy()
        >>> module.noise_injection = NoiseInjection({"0": module.network[0]})
        >>> module.training_step((torch.randn(2, 4), torch.tensor([0, 1])), 0)["loss"].item() > 0
        True
    """

    noise_injection: NoiseInjection | None = None

    @contextmanager
    def noisy_pass(self) -> Iterator[None]:
        """Within this context the chosen layers of the network add noise to their outputs.

        Raises:
            ValueError: nothing chose the layers.
        """
        if self.noise_injection is None:
            raise ValueError(
                f"{type(self).__name__}: the objective takes noisy logits, but no layer was chosen to add noise; add "
                "the callback AdaptiveNoise, or set self.noise_injection."
            )
        with self.beside_the_batch(), self.noise_injection.injecting():
            yield

    def objective_tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Add the logits of the noisy passes, if the objective takes them."""
        tensors = super().objective_tensors(tensors)
        names = [name for name in ("noisy_logits", "noisy_logits_b") if self.objective.needs(name)]
        for name in names:
            if name in tensors:
                continue
            if missing := [given for given in ("inputs", "logits") if given not in tensors]:
                raise ValueError(
                    f"{type(self).__name__}: noisy passes need {' and '.join(map(repr, missing))}; the step offered "
                    f"{', '.join(map(repr, sorted(tensors)))}."
                )
            if not self.training:
                tensors = {**tensors, name: tensors["logits"]}
                continue
            with self.noisy_pass():
                tensors = {**tensors, name: self(tensors["inputs"])}
        return tensors
