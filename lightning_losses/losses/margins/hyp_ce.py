"""Hyp-CE: cross-entropy in hyperbolic space, with draws around the batch as a class of their own."""

from dataclasses import field
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.networks.hyperbolic_head import HyperbolicHead
from lightning_losses.numerics.checks import check_embeddings
from lightning_losses.numerics.counter_random import counter_normals
from lightning_losses.numerics.probabilities import full_precision, log_probabilities
from lightning_losses.numerics.rows import check_classes, check_labels, pick
from lightning_losses.numerics.settings import Bound, Count, Positive, Seed


class HypCE(Loss):
    """Hyp-CE: cross-entropy in hyperbolic space, with draws around the batch as a class of their own.

    ``-log softmax(z)_y``, z being the logits of a `HyperbolicHead`, which belongs to the loss, and is trained and saved
    with it. In training, as many pseudo-negatives as samples join the mean: draws of ``N(μ, σ² I)``, without gradient,
    whose class is C, one more than there are. So one class (``num_classes=1``) can be told from all else without a
    sample of anything else. μ is a running mean of the batches' means, ``μ ← momentum μ + (1 - momentum) mean``, which
    begins with the first; it is in checkpoints.

    Draws are a function of `loss_seed` and `step` alone: a resumed run draws what an uninterrupted one does, all
    processes draw the same. All batches of one step begin from the mean of the step before. Without `step` every call
    in training is a step. Without gradients, as under ``torch.no_grad()``, the mean stays where it is.
    ``loss.head(embeddings)`` are the logits.

    Args:
        num_classes: C, at least 1.
        feature_dim: D, at least 1.
        pseudo_negatives: whether there are any; without, there are C logits, and C is at least 2.
        noise_std: σ, above 0.
        momentum: of the running mean, at least 0 and below 1.
        curvature: of the ball, above 0.
        clip_radius: the length that embeddings are cut to first, above 0; None leaves them as they are.
        riemannian_gradient: whether gradients by points of the ball are scaled by its metric, as the authors have it.
        loss_seed: of the draws, at least 0.
        ignore_index: samples with this target are ignored.

    Attributes:
        head: the `HyperbolicHead`.
        mean: [D] μ after the last batch.

    Shapes:
        embeddings: [B, D]; target: [B] class indices; step: a scalar.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range.

    Source:
        Narayan, Patel, 2024, "Hyp-OC: Hyperbolic One Class Classification for Face Anti-Spoofing", arXiv:2404.14406,
        and its code, Kartik-3004/hyp-oc, whose running mean knows the last batch alone, and whose draws are made two
        layers earlier.

    Example:
        >>> loss = HypCE(num_classes=1, feature_dim=4)
        >>> value = loss(torch.randn(8, 4), torch.zeros(8, dtype=torch.int64), step=0)
        >>> value.isfinite().item(), loss.head(torch.zeros(1, 4)).shape
        (True, torch.Size([1, 2]))
    """

    batch_coupled = True
    status = "confirmed"
    evidence = "Kartik-3004/hyp-oc"

    num_classes: Count
    feature_dim: Count
    pseudo_negatives: bool = True
    noise_std: Positive = 1.0
    momentum: Annotated[float, Bound(least=0, below=1)] = 0.8
    curvature: Positive = 0.1
    clip_radius: Positive | None = 2.0
    riemannian_gradient: bool = True
    loss_seed: Seed = 0
    ignore_index: int = field(default=-100, kw_only=True)
    head: HyperbolicHead = field(init=False)
    mean: Tensor = field(init=False)
    begun_from: Tensor = field(init=False)
    at_step: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        logits = self.num_classes + self.pseudo_negatives
        if logits < 2:
            raise ValueError(
                f"{self._identifier}: num_classes=1 came with pseudo_negatives=False; give at least 2 classes, or have "
                "draws beside the one."
            )
        self.head = HyperbolicHead(self.feature_dim, logits, self.curvature, self.clip_radius, self.riemannian_gradient)
        self.register_buffer("mean", torch.zeros(self.feature_dim))
        # The mean that the batches of one step begin from, and which step that is; -1 before the first.
        self.register_buffer("begun_from", torch.zeros(self.feature_dim))
        self.register_buffer("at_step", torch.tensor(-1, dtype=torch.int64))

    def forward(
        self, embeddings: Float[Tensor, "batch dim"], target: Int[Tensor, " batch"], step: float | None = None
    ) -> Float[Tensor, ""]:
        """Check and evaluate, and in training draw and move the mean; see the class."""
        check_embeddings(self._identifier, "embeddings", embeddings)
        check_labels(self._identifier, target, len(embeddings), self.ignore_index)
        kept = check_classes(self._identifier, target, self.num_classes, self.ignore_index)
        if embeddings.shape[1] != self.feature_dim:
            raise ValueError(
                f"{self._identifier}: embeddings of shape {list(embeddings.shape)} came with feature_dim="
                f"{self.feature_dim}; give both the same width."
            )
        vectors = full_precision(embeddings).masked_fill(~kept.unsqueeze(-1), 0.0)
        log_p = log_probabilities(self.head(vectors))
        values = -pick(log_p, target.masked_fill(~kept, 0)).masked_fill(~kept, 0.0)
        number = kept.sum()
        if not (self.pseudo_negatives and self.training):
            return values.sum() / number.clamp(min=1)
        draws = self._pseudo_negatives(vectors.detach(), number, step, moves=torch.is_grad_enabled())
        drawn = torch.arange(len(draws), device=draws.device) < number
        others = -log_probabilities(self.head(draws))[:, -1].masked_fill(~drawn, 0.0)
        return (values.sum() + others.sum()) / (2 * number).clamp(min=1)

    @torch.no_grad()
    def _pseudo_negatives(
        self, vectors: Float[Tensor, "batch dim"], number: Int[Tensor, ""], step: float | None, *, moves: bool
    ) -> Float[Tensor, "batch dim"]:
        # Filled in on the device; a tensor made of a number is copied there, and waited for.
        at_step = self.at_step + 1 if step is None else torch.full_like(self.at_step, int(step))
        fresh, of_batch = self.at_step < 0, (vectors.sum(dim=0) / number.clamp(min=1)).to(self.mean)
        # What is not finite, as in a step that `NumericsGuard` leaves out, would spoil every later one.
        sound = (number > 0) & of_batch.isfinite().all()
        start = torch.where(at_step != self.at_step, self.mean, self.begun_from)
        further = torch.where(fresh, of_batch, torch.lerp(of_batch, start, self.momentum))
        moved = torch.where(sound, further, start)
        if moves:
            self.begun_from.copy_(torch.where(fresh, moved, start))
            self.mean.copy_(moved)
            self.at_step.copy_(torch.where(sound | ~fresh, at_step, self.at_step))
        return moved.to(vectors) + self.noise_std * counter_normals(vectors, self.loss_seed, at_step)
