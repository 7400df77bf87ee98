"""Robust mean teacher: learns from the moving average of its own weights by symmetric cross-entropy."""

from collections.abc import Sequence
from dataclasses import field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from lightning_losses.data.seeded_views import Augmentation, seeded_views
from lightning_losses.losses.self_training.rmt_symmetric_cross_entropy import RMTSymmetricCrossEntropy
from lightning_losses.networks.calls import logits_of
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.settings import NonNegative, Seed, Share
from lightning_losses.teachers.feature_taps import FeatureTap, stages
from lightning_losses.test_time.adaptation import Adaptation, TestTimeMethod
from lightning_losses.test_time.prototype_contrast import PROJECTOR, prepare_contrast, prototype_contrast


class RobustMeanTeacher(TestTimeMethod):
    """Robust mean teacher: learns from the moving average of its own weights by symmetric cross-entropy.

    The mean of ``½ SCE(student(x), teacher(x)) + ½ SCE(student(x'), teacher(x))`` with x' a view of x
    (`RMTSymmetricCrossEntropy`), by all parameters. After the step the teacher's weights move:
    ``θ' ← m θ' + (1 - m) θ``. The prediction is the sum of the logits of student and teacher, from before. With
    `source` every step also takes the next of these batches, and adds its cross-entropy, and the contrast of features
    with the source's prototypes (`prototype_contrast`).

    Args:
        alpha: the share of the reverse term of SCE, in [0, 1].
        momentum: m, in [0, 1].
        augmentation: makes a view of one input with a generator, such as `RandomAffine`; None leaves the second term
            out, with the first at full weight.
        source: batches of inputs of training with their classes, the same on every process; none is free of source
            data, and of both further terms.
        source_weight: of their cross-entropy, at least 0.
        contrast_weight: of the contrast, at least 0.
        layer: whose outputs are contrasted; None is the last stage.
        seed: of the views.
        lr, optimizer, include, exclude: see `TestTimeMethod`; all parameters if `include` is None.

    Source:
        Döbler, Marsden, Yang, 2022, "Robust Mean Teacher for Continual and Gradual Test-Time Adaptation",
        arXiv:2211.13081, and their code, mariodoebler/test-time-adaptation, without the warm-up on 50,000 samples of
        the source.

    Example:
        >>> from lightning_losses.test_time import Adaptation
        >>> network = torch.nn.Linear(2, 3)
        >>> with Adaptation(network, RobustMeanTeacher()) as run:
        ...     logits = network(torch.randn(8, 2))
        >>> sorted(run.state)
        ['batches', 'teacher.bias', 'teacher.weight']
    """

    name = "robust_mean_teacher"

    alpha: Share = 0.5
    momentum: Share = 0.999
    augmentation: Augmentation | None = None
    source: Sequence[tuple[Tensor, Int[Tensor, " rows"]]] = field(default=(), kw_only=True)
    source_weight: NonNegative = field(default=1.0, kw_only=True)
    contrast_weight: NonNegative = field(default=1.0, kw_only=True)
    layer: str | None = field(default=None, kw_only=True)
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.include = ("*",) if self.include is None else self.include
        self.cross_entropy = RMTSymmetricCrossEntropy(self.alpha, reduction="none")

    def prepare(self, run: Adaptation) -> None:
        """Measure the source's prototypes, if there is a contrast."""
        for layer in self._contrasted(run):
            prepare_contrast(run, layer, self.source, self.seed)

    def begin(self, run: Adaptation) -> None:
        """Have the teacher begin as the network."""
        for name, value in _of_network(run).items():
            # In half precision a small step of the average would change nothing.
            wide = torch.promote_types(value.dtype, torch.float32)
            run.state[f"teacher.{name}"] = value.detach().to(wide, copy=True)
        run.state["batches"] = torch.tensor(0)

    def adapt(self, run: Adaptation, inputs: Any) -> Float[Tensor, "*rows classes"]:
        """Take a step on a batch, and predict."""
        teacher_logits, number = self._teacher_logits(run), int(run.state["batches"])
        with FeatureTap(run.network, self._contrasted(run), self.name) as tap:
            logits = run.logits()
            features = list(tap.latest().values())
            values = self.cross_entropy(logits, teacher_logits)
            if self.augmentation is not None:
                of_view = self.cross_entropy(run.logits(self._view(inputs, number)), teacher_logits)
                features += tap.latest().values()
                values = 0.5 * values + 0.5 * of_view
        run.state["batches"] += 1
        if run.step(values.flatten(), penalty=self._of_source(run, number, features) if self.source else None):
            for name, parameter in _of_network(run).items():
                average = run.state[f"teacher.{name}"]
                average.lerp_(parameter.detach().to(average), 1 - self.momentum)
        return logits + teacher_logits

    def _contrasted(self, run: Adaptation) -> list[str]:
        """The layer that is contrasted, if there is one."""
        if not self.source or not self.contrast_weight:
            return []
        return [stages(run.network, who=self.name)[-1] if self.layer is None else self.layer]

    def _teacher_logits(self, run: Adaptation) -> Float[Tensor, "*rows classes"]:
        weights = {name: run.state[f"teacher.{name}"].to(value.dtype) for name, value in _of_network(run).items()}
        given, named = run.given
        with torch.no_grad():
            output = functional_call(run.network, weights, given, named)
        return logits_of("robust_mean_teacher: the network", output)

    def _of_source(self, run: Adaptation, number: int, features: Sequence[Tensor]) -> Tensor:
        inputs, target = self.source[number % len(self.source)]
        logits = run.logits(inputs)
        replayed = self.source_weight * cross_entropy(full_precision(logits), target.to(logits.device))
        return replayed + self.contrast_weight * prototype_contrast(run, features) if features else replayed

    def _view(self, inputs: Any, number: int) -> Tensor:
        if not isinstance(inputs, Tensor):
            raise ValueError(
                f"robust_mean_teacher: inputs as a {type(inputs).__name__} came; give a tensor, or no augmentation."
            )
        assert self.augmentation is not None
        places = range(len(inputs))
        return seeded_views(self.augmentation, inputs.detach(), self.seed, number, places=places)


def _of_network(run: Adaptation) -> dict[str, Tensor]:
    """The adapted parameters but those of the projector."""
    return {name: parameter for name, parameter in run.adapted.items() if not name.startswith(PROJECTOR)}
