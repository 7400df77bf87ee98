"""EATA: minimises the entropy of predictions that are reliable and unlike those before, and holds on to weights."""

import math
from collections.abc import Sequence
from dataclasses import field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.settings import NonNegative, Share
from lightning_losses.test_time.adaptation import Adaptation, TestTimeMethod, row_entropy


class EATARows(NamedTuple):
    """What EATA makes of a batch: each row's weighted entropy, whether it counts, and its probabilities."""

    values: Float[Tensor, " rows"]
    reliable: Bool[Tensor, " rows"]
    kept: Bool[Tensor, " rows"]
    probabilities: Float[Tensor, "rows classes"]


class EATA(TestTimeMethod):
    """EATA: minimises the entropy of predictions that are reliable and unlike those before, and holds on to weights.

    The mean of ``exp(E0 - H_i) H_i``, whose first factor is constant, over the samples with ``H_i < E0`` and
    ``|cos(p_i, m)| < d``; m is the moving average of the kept samples' mean probabilities, and in the first batch only
    the first condition holds. With `source` comes ``β sum_j F_j (θ_j - θ0_j)²``: F is the mean, over these batches, of
    the squared gradient of the batch's cross-entropy with its own predicted classes, and θ0 the weights at the start.

    Args:
        entropy_margin: E0 as a share of log C, in [0, 1].
        similarity_margin: d, in [0, 1]; the authors' 0.05 is for ImageNet, 0.4 for CIFAR-10. 1 keeps all but the alike.
        fisher_weight: β, at least 0; the authors' 2000 is for ImageNet, 1 for CIFAR-10.
        source: batches of inputs like those of training, without labels; none leaves the penalty out.
        decay: of the moving average, in [0, 1].
        lr, optimizer, include, exclude: see `TestTimeMethod`.

    Source:
        Niu, Wu, Zhang, Chen, Zheng, Zhao, Tan, 2022, "Efficient Test-Time Model Adaptation without Forgetting",
        arXiv:2204.02610, and its code, mr-eggplant/EATA.

    Example:
        >>> from lightning_losses.test_time import Adaptation
        >>> network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
        >>> with Adaptation(network, EATA(entropy_margin=0.9, source=[torch.randn(4, 2)])) as run:
        ...     logits = network(torch.randn(8, 2))
        >>> sorted(run.fixed)
        ['fisher.1.bias', 'fisher.1.weight', 'start.1.bias', 'start.1.weight']
    """

    name = "eata"

    entropy_margin: Share = 0.4
    similarity_margin: Share = 0.05
    fisher_weight: NonNegative = 2000.0
    source: Sequence[Tensor] = field(default=(), kw_only=True)
    decay: Share = 0.9

    def prepare(self, run: Adaptation) -> None:
        """Measure Fisher's information, if there are source batches."""
        for inputs in self.source:
            logits = full_precision(run.logits(inputs)).flatten(0, -2)
            values = functional.cross_entropy(logits, logits.detach().argmax(dim=-1), reduction="none")
            gradients, _ = run.gradients(values)
            for name, gradient in zip(run.adapted, gradients or [], strict=False):
                share = gradient.square() / len(self.source)
                run.fixed[f"fisher.{name}"] = run.fixed.get(f"fisher.{name}", 0) + share
        if self.source:
            run.fixed.update({f"start.{name}": value.detach().clone() for name, value in run.adapted.items()})

    def adapt(self, run: Adaptation, inputs: Any) -> Float[Tensor, "*rows classes"]:
        """Take a step on a batch, and predict."""
        logits = run.logits()
        margin = self.entropy_margin * math.log(logits.shape[-1])
        rows = eata_rows(logits, run.state.get("average"), margin, self.similarity_margin)
        penalties = [
            (run.fixed[f"fisher.{name}"] * (parameter - run.fixed[f"start.{name}"]).square()).sum()
            for name, parameter in run.adapted.items()
            if f"fisher.{name}" in run.fixed
        ]
        run.step(rows.values, rows.kept, self.fisher_weight * torch.stack(penalties).sum() if penalties else None)
        sums = run.total(torch.cat([rows.kept.sum().view(1), rows.probabilities[rows.kept].sum(dim=0)]))
        if sums[0]:
            run.state["average"] = moved_average(run.state.get("average"), sums[1:] / sums[0], self.decay)
        return logits


def eata_rows(
    logits: Float[Tensor, "*rows classes"],
    average: Float[Tensor, " classes"] | None,
    entropy_margin: float,
    similarity_margin: float,
) -> EATARows:
    """Each row's weighted entropy, and which rows are reliable, and unlike the average, too.

    Args:
        logits: of a batch.
        average: m, before this batch; None is the first batch.
        entropy_margin: E0, in nats.
        similarity_margin: d.
    """
    entropy = row_entropy(logits)
    p = full_precision(logits.detach()).softmax(dim=-1).flatten(0, -2)
    reliable = entropy.detach() < entropy_margin
    unlike = True if average is None else functional.cosine_similarity(average, p, dim=-1).abs() < similarity_margin
    return EATARows((entropy_margin - entropy.detach()).exp() * entropy, reliable, reliable & unlike, p)


def moved_average(
    average: Float[Tensor, " classes"] | None, mean: Float[Tensor, " classes"], decay: float = 0.9
) -> Float[Tensor, " classes"]:
    """The moving average after a batch of this mean."""
    return mean if average is None else decay * average + (1 - decay) * mean
