"""Correctness-aware calibration: a temperature for each sample, from the predictions for transformed views of it."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.calibrators.base import Calibrator
from lightning_losses.calibrators.image_views import check_views
from lightning_losses.numerics.checks import check_count, check_floating, check_number

_CHUNK = 1 << 20


class CorrectnessAwareCalibrator(Calibrator):
    """Correctness-aware calibration: ``logits / T(x)``, with T from a small network on the views' predictions.

    Its features are the probabilities that each view of the sample gives to the `top` likeliest classes of the sample.
    ``T = clamp(w · relu(W features + b) + c, minimum, maximum)`` minimises the correctness-aware objective,
    ``mean_n (confidence_n - 1[prediction_n = target_n])²``: if the views contradict the prediction, the prediction is
    probably wrong and T is large. Dividing by ``T > 0`` keeps the order of the classes, so accuracy does not change.

    Its input holds the logits of the sample, followed by the logits of its views: `CalibratedModel`, the callback and
    the recipe compute them by `image_views`, with one forward pass for each view.

    Args:
        views: the names of the transformed views in `image_views`; for precomputed logits only their number matters.
        top: number of classes whose probabilities a view contributes, at least 1.
        hidden: the width of the network, at least 1.
        minimum: the smallest temperature, above 0.
        maximum: the largest temperature.
        balanced: weigh right and wrong predictions alike, as the authors' code does. The objective is then no proper
            score: the confidence of a model that is right 99 times in 100 goes far below 0.99.
        steps: steps of Adam on all samples at once, with a cosine schedule from `learning_rate` to 0.
        learning_rate: the learning rate of the first step, above 0.
        seed: seed of the network's initial weights.
        ignore_index: samples with this target are ignored.

    Attributes:
        hidden_weight: [hidden, V · top] W, empty before `fit`, as are the others.
        hidden_bias: [hidden] b.
        temperature_weight: [hidden] w.
        temperature_bias: [] c.

    Shapes:
        logits: [..., 1 + V, C], the sample's own first; target: [...] class indices; calibrated logits: [..., C].

    Raises:
        ValueError: options out of range; input that `fit` can't use; another number of views than in the fit, or
            another number of classes if there are fewer than `top`; use before `fit`.

    Source:
        Liu, Wang, Zou, Zou, Zheng, 2024, "Optimizing Calibration by Gaining Aware of Prediction Correctness",
        arXiv:2404.13016. Features, network (5 hidden units, T in [0.1, 10]) and three views of rotation, greyscale and
        colour jitter are those of their code. The objective is the paper's; the code balances it. The code takes ten
        passes of Adam at 0.0001 from a random start, which moves it little; this fit starts at T = 1, runs until
        convergence, and draws no batches, so it is deterministic. The code's second branch, which predicts correctness
        and is not trained, is left out. Their views are random; ours are fixed.

    Example:
        >>> sample = torch.tensor([[2.0, 0.0]]).repeat(4, 1)
        >>> view = torch.tensor([[2.0, 0.0], [2.0, 0.0], [-2.0, 0.0], [-2.0, 0.0]])
        >>> logits, target = torch.stack([sample, view], dim=1), torch.tensor([0, 0, 1, 1])
        >>> calibrated = CorrectnessAwareCalibrator(views=["rotate"]).fit(logits, target)(logits).softmax(dim=-1)
        >>> [f"{confidence:.1f}" for confidence in calibrated[:, 0].tolist()]
        ['1.0', '1.0', '0.5', '0.5']
    """

    learned: ClassVar[tuple[str, ...]] = ("hidden_weight", "hidden_bias", "temperature_weight", "temperature_bias")
    keeps_argmax: ClassVar[bool] = True
    hidden_weight: Tensor
    hidden_bias: Tensor
    temperature_weight: Tensor
    temperature_bias: Tensor

    def __init__(
        self,
        views: Sequence[str] = ("rotate", "grayscale", "color_jitter"),
        top: int = 4,
        hidden: int = 5,
        minimum: float = 0.1,
        maximum: float = 10.0,
        balanced: bool = False,
        steps: int = 400,
        learning_rate: float = 0.02,
        seed: int = 0,
        ignore_index: int = -100,
    ) -> None:
        super().__init__(ignore_index)
        name = "CorrectnessAwareCalibrator"
        check_views(name, views)
        check_count(name, "top", top)
        check_count(name, "hidden", hidden)
        check_number(name, "minimum", minimum, above=0)
        check_number(name, "maximum", maximum, above=minimum)
        check_count(name, "steps", steps)
        check_number(name, "learning_rate", learning_rate, above=0)
        self.views = tuple(views)
        self.top = top
        self.hidden = hidden
        self.minimum = minimum
        self.maximum = maximum
        self.balanced = balanced
        self.steps = steps
        self.learning_rate = learning_rate
        self.seed = seed

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's arguments, by name."""
        return {**super().options, "views": list(self.views)}

    def temperature(self, logits: Float[Tensor, "*rows one_and_views classes"]) -> Float[Tensor, "*rows"]:
        """The temperature of each sample, from its logits and those of its views."""
        self.check_fitted()
        self._check_shape(logits)
        features = self._features(self._widened(logits))
        weights = [self.value_of(name).to(features.dtype) for name in self.learned]
        with torch.autocast(logits.device.type, enabled=False):
            return _raw_temperature(features, *weights).clamp(self.minimum, self.maximum).to(logits.dtype)

    def _fit(
        self, logits: Float[Tensor, "rows one_and_views classes"], target: Int[Tensor, " rows"]
    ) -> dict[str, Tensor]:
        features = self._features(logits).double()
        own = logits[:, 0]
        top, predicted = own.max(dim=-1)
        gaps, correct = own - top.unsqueeze(-1), (predicted == target).double()
        weight = self._weights(correct)
        parameters = self._start(features)
        optimizer = torch.optim.Adam(parameters, lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        for _ in range(self.steps):
            raw = _raw_temperature(features, *parameters)
            temperature = raw.detach().clamp(self.minimum, self.maximum)
            confidence, slope = _confidence(gaps, temperature)
            gradient = 2 * weight * (confidence - correct) * slope
            # At a bound keep only gradients that lead back; a clamp's own gradient of 0 would keep samples there.
            stuck = torch.where(gradient < 0, raw >= self.maximum, raw <= self.minimum)
            optimizer.zero_grad()
            torch.autograd.backward(raw, gradient.masked_fill(stuck, 0.0))
            optimizer.step()
            schedule.step()
        return dict(zip(self.learned, parameters, strict=True))

    def _calibrate(self, logits: Float[Tensor, "*rows one_and_views classes"]) -> Float[Tensor, "*rows classes"]:
        return self.original(logits) / self.temperature(logits).unsqueeze(-1)

    def _rows(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        self._check_shape(logits)
        # The base class flattens all dimensions except the last, so the views are put there meanwhile; targets are
        # checked against the number of classes.
        _, classes = super()._rows(self.original(logits), target)
        count = logits.shape[-1]
        flat, _ = super()._rows(logits.flatten(start_dim=-2), target)
        return flat.reshape(len(flat), -1, count), classes

    def _check_shape(self, logits: Tensor) -> None:
        check_floating(type(self).__name__, "logits", logits)
        if logits.ndim < 3 or logits.shape[-2] != 1 + len(self.views):
            raise ValueError(
                f"CorrectnessAwareCalibrator: logits have shape {list(logits.shape)}; give [N, {1 + len(self.views)}, "
                f"C], the logits of each sample and of its {len(self.views)} views ({', '.join(self.views)})."
            )
        if self.fitted and self.hidden_weight.shape[-1] != len(self.views) * min(self.top, logits.shape[-1]):
            raise ValueError(
                f"CorrectnessAwareCalibrator: logits of {logits.shape[-1]} classes came, and the fit had another "
                "number; fit one calibrator for each set of classes."
            )

    def _features(self, logits: Float[Tensor, "*rows one_and_views classes"]) -> Float[Tensor, "*rows features"]:
        own = self.original(logits)
        classes = own.topk(min(self.top, own.shape[-1]), dim=-1).indices.unsqueeze(-2)
        probabilities = torch.softmax(logits[..., 1:, :], dim=-1)
        return probabilities.gather(-1, classes.expand(*probabilities.shape[:-1], -1)).flatten(start_dim=-2)

    def _weights(self, correct: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        weight = torch.full_like(correct, 1 / len(correct))
        accuracy = correct.mean()
        if self.balanced and 0 < float(accuracy) < 1:
            weight = torch.where(correct > 0, 1 - accuracy, accuracy)
            weight = weight / weight.sum()
        return weight

    def _start(self, features: Float[Tensor, "rows features"]) -> list[Tensor]:
        """Initial weights that give every sample the temperature 1 and can be trained from there."""
        generator = torch.Generator().manual_seed(self.seed)
        inputs = features.shape[-1]
        weight = torch.rand(self.hidden, inputs, generator=generator, dtype=torch.float64).mul_(2).sub_(1)
        start = [
            weight.div_(inputs**0.5).to(features.device),
            features.new_zeros(self.hidden),
            features.new_zeros(self.hidden),
            features.new_ones(()),
        ]
        return [parameter.requires_grad_() for parameter in start]


def _raw_temperature(
    features: Float[Tensor, "*rows features"],
    hidden_weight: Float[Tensor, "hidden features"],
    hidden_bias: Float[Tensor, " hidden"],
    temperature_weight: Float[Tensor, " hidden"],
    temperature_bias: Float[Tensor, ""],
) -> Float[Tensor, "*rows"]:
    hidden = torch.relu(features @ hidden_weight.T + hidden_bias)
    return hidden @ temperature_weight + temperature_bias


def _confidence(
    gaps: Float[Tensor, "rows classes"], temperature: Float[Tensor, " rows"]
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The largest probability of ``gaps / temperature`` (the largest gap is 0), and its slope by the temperature."""
    confidences, slopes = [], []
    rows = max(_CHUNK // gaps.shape[-1], 1)
    for chunk, divisor in zip(torch.split(gaps, rows), torch.split(temperature, rows), strict=True):
        mass = torch.exp(chunk / divisor.unsqueeze(-1))
        confidence = 1 / mass.sum(dim=-1)
        confidences.append(confidence)
        slopes.append(confidence.square() * (mass * chunk).sum(dim=-1) / divisor.square())
    return torch.cat(confidences), torch.cat(slopes)
