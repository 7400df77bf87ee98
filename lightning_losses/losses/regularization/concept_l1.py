"""The sum of the absolute weights of a layer, so that each concept uses few of its inputs."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.regularization.wdr_loss import Weights
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.settings import Weight


class ConceptL1(Loss):
    """The sum of the absolute weights of a layer, so that each concept uses few of its inputs.

    ``λ sum |w|``, over the weights of the layer that maps to concepts; biases do not count. `ObjectiveMixin` passes the
    weights of the module's linear and convolutional layers except the first.

    Args:
        coefficient: λ, at least 0.
        layer: the name of the layer in the module, such as "network.concepts"; None takes all that are passed.
        per_concept: divide each layer's sum by the number of its outputs, the concepts.

    Shapes:
        weights: a tensor, or {layer: tensor}.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: no weights, or none of the layer; weights that aren't floating point; options out of range.

    Source:
        Semenov, Ivanov, Beznosikov, Gasnikov, 2024, "Sparse Concept Bottleneck Models: Gumbel Tricks in Contrastive
        Learning", arXiv:2404.03323, and its code Andron00e/SparseCBM, with this λ.

    Example:
        >>> round(ConceptL1(coefficient=0.1)(torch.tensor([[1.0, -2.0]])).item(), 4)
        0.3
    """

    status = "paper"
    evidence = "no golden values: a sum of absolute values, in its tests"

    coefficient: Weight = 1e-3
    layer: str | None = None
    per_concept: bool = False

    def forward(self, weights: Weights) -> Float[Tensor, ""]:
        """Check and evaluate; the class documents what."""
        layers = dict(weights) if isinstance(weights, Mapping) else {self.layer or "": weights}
        chosen = layers if self.layer is None else {self.layer: layers[self.layer]} if self.layer in layers else {}
        if not chosen:
            came = f"those of {', '.join(layers)}" if layers else "no weights"
            wanted = "at least one layer" if self.layer is None else f"the layer {self.layer}"
            raise ValueError(f"{self._identifier}: {came} came; give those of {wanted}.")
        for weight in chosen.values():
            check_floating(self._identifier, "weights", weight)
        sums = [
            full_precision(weight).abs().sum() / (max(len(weight), 1) if self.per_concept and weight.ndim else 1)
            for weight in chosen.values()
        ]
        return self.coefficient * sum(sums[1:], sums[0])
