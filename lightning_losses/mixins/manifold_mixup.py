"""The mixin that mixes samples inside of the network."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_losses.mixins.mixup import MixupMixin


class ManifoldMixupMixin(MixupMixin):
    """Mixes the samples of a batch at a layer that is drawn for each mixture, or at the input.

    As `MixupMixin`, which mixes inputs alone, it offers the objective `mixup_logits` and `mixup_target`. The output of
    the drawn layer is mixed, and the rest of the network goes on with the mixture; the targets are mixed by the same
    weights, with the same partners.

    Attributes:
        manifold_layers: the names of the layers that are drawn from, beside the input; each gives one tensor [B, ...].
        mixup_alpha: the Dirichlet concentration, above 0; 2 in the paper.

    Source:
        Verma et al., 2019, "Manifold Mixup: Better Representations by Interpolating Hidden States", arXiv:1806.05236.

    Example:
        >>> import lightning
        >>> from lightning_losses import CrossEntropy, Objective, Term
        >>> inputs = {"logits": "mixup_logits", "target": "mixup_target"}
        >>> class Mixed(ManifoldMixupMixin, lightning.LightningModule):
        ...     manifold_layers = ["network.0"]
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
        ...         self.objective = Objective({"mixup": Term(CrossEntropy(), inputs=inputs)})
        ...     def forward(self, inputs):
        ...         return self.network(inputs)
        >>> logits, target = Mixed().mixtures(torch.zeros(2, 4), torch.tensor([0, 1]), 3)
        >>> logits.shape, target.shape
        (torch.Size([2, 3]), torch.Size([2, 3]))
    """

    manifold_layers: Sequence[str] = ()
    mixup_alpha: float = 2.0

    def mixtures(self, inputs: Tensor, target: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """The logits and the targets of all mixtures, in blocks of the batch."""
        mixed = [self._mixed_at(self._drawn(), inputs, target, num_classes) for _ in range(self.mixup_count)]
        return torch.cat([logits for logits, _ in mixed]), torch.cat([one for _, one in mixed])

    def _drawn(self) -> str | None:
        """The name of a layer; None for the input."""
        place = int(torch.randint(len(self.manifold_layers) + 1, ()))
        return self.manifold_layers[place - 1] if place else None

    def _mixed_at(self, layer: str | None, inputs: Tensor, target: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        if layer is None:
            mixed, target_of_mixed = self.mix(inputs, target, num_classes)
            return self(mixed), target_of_mixed
        targets: list[Tensor] = []

        def mix_output(module: nn.Module, arguments: Any, output: Any) -> Tensor:
            if not isinstance(output, Tensor) or len(output) != len(target):
                came = f"shape {list(output.shape)}" if isinstance(output, Tensor) else f"type {type(output).__name__}"
                raise ValueError(
                    f"{type(self).__name__}: the layer '{layer}' gives an output of {came}; name one in "
                    "manifold_layers that gives one tensor with a row for each sample."
                )
            mixed, one = self.mix(output, target, num_classes)
            targets.append(one)
            return mixed

        try:
            handle = self.get_submodule(layer).register_forward_hook(mix_output)
        except AttributeError:
            raise ValueError(
                f"{type(self).__name__}: manifold_layers names '{layer}', and there is no such layer; give names as "
                "named_modules() has them."
            ) from None
        try:
            logits = self(inputs)
        finally:
            handle.remove()
        if len(targets) != 1:
            raise ValueError(
                f"{type(self).__name__}: the layer '{layer}' ran {len(targets)} times in a pass; name layers that run "
                "once."
            )
        return logits, targets[0]
