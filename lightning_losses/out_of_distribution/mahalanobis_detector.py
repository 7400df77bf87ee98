"""The Mahalanobis detector: how near an input's features lie to a class, in every layer."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import field
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.diagnostics.mahalanobis_score import (
    TiedGaussians,
    merged_gaussians,
    squared_distances,
    tied_gaussians,
)
from lightning_losses.networks.calls import for_graphs
from lightning_losses.numerics.settings import NonNegative
from lightning_losses.out_of_distribution.base import OutOfDistributionScore, inputs_of, refuse_not_finite
from lightning_losses.out_of_distribution.layer_regression import LayerRegression, layer_regression
from lightning_losses.out_of_distribution.measuring import (
    Outputs,
    input_gradients,
    measuring,
    outputs_of,
    signed_step,
)
from lightning_losses.parallel.processes import values_of_all


class MahalanobisDetector(OutOfDistributionScore):
    """Gaussians of one covariance fitted to each layer's features of the classes; the density of the nearest class.

    A layer's score is ``M_l(x) = -½ min_c (h_l - μ_lc)ᵀ Σ_l⁺ (h_l - μ_lc)``, taken at ``x + ε sign(∇_x M_l(x))``, a
    step towards the nearest class; a gradient of 0 counts as -1. The layers' scores are added, or combined by a
    logistic regression that `tune` fits to held-out samples of both kinds.

    Args:
        layers: the names of the layers; each output is averaged over all but its first two dimensions.
        epsilon: ε, at least 0, in units of the network's inputs; 0 takes no step, and no gradient.
        combination: "sum", or "logistic", which needs `tune`.
        epsilons: the steps that `tune` tries, of which the one with the highest AUROC takes the place of `epsilon`, the
            first of equals; none keeps `epsilon`.

    Attributes:
        gaussians: what was fitted, by layer.
        regression: what `tune` fitted.

    Shapes:
        a layer's output: [B, D_l, ...]; returns [B] float64.

    Raises:
        ValueError: no layers, or one that the network lacks; inputs without gradient where ε is above 0; use before
            `fit`, or before `tune` where layers are combined by logistic regression.

    Source:
        Lee, Lee, Lee, Shin, 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
        Adversarial Attacks", arXiv:1807.03888, and its code pokaxpoka/deep_Mahalanobis_detector, which divides the step
        by each channel's deviation where that divides the inputs.

    Example:
        >>> network = nn.Sequential(nn.Identity(), nn.Linear(1, 2))
        >>> known = torch.tensor([[0.0], [1.0], [5.0], [6.0]])
        >>> score = MahalanobisDetector(["0"]).fit(network, [(known, torch.tensor([0, 0, 1, 1]))])
        >>> score(network, torch.tensor([[0.5], [3.5]]))
        tensor([ 0., -8.], dtype=torch.float64)
    """

    name = "mahalanobis_detector"
    learns: ClassVar[bool] = True

    layers: Sequence[str]
    epsilon: NonNegative = 0.0
    combination: Literal["sum", "logistic"] = "sum"
    epsilons: Sequence[float] = ()
    gaussians: dict[str, TiedGaussians] = field(init=False, default_factory=dict)
    regression: LayerRegression | None = field(init=False, default=None)
    _resolution: float = field(init=False, default=0.0)
    _precisions: dict[str, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.layers, str) or not self.layers:
            raise ValueError(f"{self.name}: layers={self.layers!r} came; give a list of layers' names.")
        if wrong := [epsilon for epsilon in self.epsilons if not 0 <= epsilon < math.inf]:
            raise ValueError(
                f"{self.name}: epsilons={list(self.epsilons)} came; {wrong} are not at least 0 and finite."
            )

    @property
    def read_layers(self) -> tuple[str, ...]:
        """The layers."""
        return tuple(self.layers)

    @property
    def fitted(self) -> bool:
        """Whether there are Gaussians."""
        return bool(self._precisions)

    def clear(self) -> None:
        """Forget the Gaussians, and the regression that belongs to them."""
        self.gaussians, self._precisions, self.regression = {}, {}, None

    def update(self, outputs: Outputs, target: Int[Tensor, " batch"]) -> None:
        """Add a batch's samples that have a class."""
        kept = target >= 0
        for layer in self.layers:
            features = outputs.features(layer)[kept]
            self._resolution = torch.finfo(features.dtype).eps
            batch = tied_gaussians(features, target[kept].to(features.device), outputs.logits.shape[1])
            before = [self.gaussians[layer]] if layer in self.gaussians else []
            self.gaussians[layer] = merged_gaussians(*before, batch)

    def finish(self, device: torch.device) -> None:
        """Merge the Gaussians of all processes, in their order, and invert the covariances."""
        shares = values_of_all({layer: tuple(part.cpu() for part in own) for layer, own in self.gaussians.items()})
        resolution = max(values_of_all(self._resolution))
        gaussians, precisions = {}, {}
        for layer in self.layers:
            whole = merged_gaussians(*(TiedGaussians(*share[layer]) for share in shares if layer in share))
            if not whole.samples.sum() > 0:
                raise ValueError(f"{self.name}: no training sample has a class; give samples with targets.")
            refuse_not_finite(self.name, layer, whole.scatter)
            gaussians[layer], precisions[layer] = whole, whole.precision(resolution)
        self.gaussians, self._precisions = gaussians, precisions

    def score(self, network: nn.Module, inputs: Any, outputs: Outputs) -> Float[Tensor, " batch"]:
        """The layers' scores, combined."""
        scores = self.layer_scores(network, inputs, outputs)
        if self.combination == "sum":
            return scores.sum(dim=1)
        if self.regression is None:
            raise ValueError(f"{self.name}: it is not tuned; call tune(network, known, foreign) with held-out inputs.")
        return self.regression.log_odds(scores)

    def layer_scores(self, network: nn.Module, inputs: Any, outputs: Outputs) -> Float[Tensor, "batch layers"]:
        """Each layer's score, after its step."""
        if self.epsilon == 0:
            return torch.stack([self._density(layer, outputs) for layer in self.layers], dim=1)

        def densities(leaf: Tensor) -> Sequence[Tensor]:
            read = outputs_of(network, leaf, self.layers, self.name)
            return [self._density(layer, read) for layer in self.layers]

        scores = []
        for layer, gradient in zip(self.layers, input_gradients(inputs, densities, self.name), strict=True):
            moved = signed_step(inputs, -gradient, self.epsilon)
            scores.append(self._density(layer, outputs_of(network, moved, [layer], self.name)))
        return torch.stack(scores, dim=1)

    @property
    def needs_tuning(self) -> bool:
        """Whether the layers are combined by a regression."""
        return self.combination == "logistic"

    def tune(self, network: nn.Module, known: Iterable[Any], foreign: Iterable[Any]) -> Self:
        """Fit the logistic regression of the layers, and choose the step.

        Raises:
            ValueError: no inputs of one kind; use before `fit`.
        """
        if not self.fitted:
            raise ValueError(f"{self.name}: it is not fitted; call fit(network, batches) before tune.")
        inputs, before = (list(known), list(foreign)), self.epsilon
        tried: dict[float, LayerRegression] = {}
        try:
            for epsilon in self.epsilons or (before,):
                self.epsilon = epsilon
                tried[epsilon] = layer_regression(self.name, *(self._of_all(network, batches) for batches in inputs))
        finally:
            self.epsilon = before
        self.epsilon, self.regression = max(tried.items(), key=lambda pair: pair[1].auroc)
        return self

    def _of_all(self, network: nn.Module, batches: Sequence[Any]) -> Float[Tensor, "rows layers"]:
        """The layers' scores of all processes' inputs, on the host."""
        own = [torch.zeros(0, len(self.layers), dtype=torch.float64)]
        with measuring(network):
            for inputs in (for_graphs(inputs_of(batch)) for batch in batches):
                own.append(
                    self.layer_scores(network, inputs, outputs_of(network, inputs, self.layers, self.name)).cpu()
                )
        return torch.cat(list(values_of_all(torch.cat(own))))

    def _density(self, layer: str, outputs: Outputs) -> Float[Tensor, " batch"]:
        features, gaussians = outputs.features(layer).double(), self.gaussians[layer]
        mean = gaussians.mean[gaussians.samples > 0]
        device = features.device
        distances = squared_distances(features, mean.to(device), self._precisions[layer].to(device))
        return -0.5 * distances.amin(dim=1)
