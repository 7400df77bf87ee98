"""DINO: each view of the student predicts the sharpened, centred distribution of the other view's teacher."""

from dataclasses import field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import full_precision, log_probabilities, probabilities
from lightning_losses.numerics.reduction import Reduction, reduce
from lightning_losses.numerics.settings import Count, Share, Temperature, Whole
from lightning_losses.numerics.vectors import alike_vectors


class DINOLoss(Loss):
    """DINO: each view of the student predicts the sharpened, centred distribution of the other view's teacher.

    ``-mean_{v ≠ u} sum_k softmax((t_u - c) / τ_t)_k log softmax(s_v / τ_s)_k``, over the teacher's two views u and all
    views v of the student, further crops among them. The teacher is the student's moving average. The centre c is a
    buffer, saved with the loss; after a training step it becomes ``m c + (1 - m) mean(t)`` over the batch of all
    processes. It keeps one dimension from winning always, a low τ_t keeps all from being equally likely. τ_t may grow
    from `warm_up_temperature` in equal steps over the first epochs.

    Args:
        feature_dim: D, the number of dimensions, at least 1.
        temperature: τ_s of the student, above 0.
        teacher_temperature: τ_t after its warm-up, above 0.
        warm_up_temperature: τ_t in the first epoch, if it warms up, above 0.
        warm_up_epochs: in the last of these epochs τ_t is `teacher_temperature`; 0 for no warm-up.
        momentum: m, in [0, 1].
        reduction: "mean" over the samples, "sum", or "none".

    Shapes:
        embeddings, embeddings_b, target_embeddings, target_embeddings_b: [B, D]; crop_embeddings (optional): [B, V, D];
        epoch: a number, needed for the warm-up alone.

    Returns:
        A scalar, or [B] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range; no epoch for a warm-up.

    Source:
        Caron et al., 2021, "Emerging Properties in Self-Supervised Vision Transformers", arXiv:2104.14294, and its code
        facebookresearch/dino, whose recommended runs warm up from 0.04 to 0.07 over 30 epochs.

    Example:
        >>> loss = DINOLoss(feature_dim=2)
        >>> view = torch.tensor([[1.0, 0.0]])
        >>> round(loss(view, view, view, view).item(), 6)
        4.5e-05
        >>> loss.after_step(target_embeddings=view, target_embeddings_b=view)
        >>> loss.centre
        tensor([0.1000, 0.0000])
    """

    status = "confirmed"
    evidence = "facebookresearch/dino"

    feature_dim: Count
    temperature: Temperature = 0.1
    teacher_temperature: Temperature = 0.04
    warm_up_temperature: Temperature = 0.04
    warm_up_epochs: Whole = 0
    momentum: Share = 0.9
    reduction: Reduction = field(default="mean", kw_only=True)
    centre: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.register_buffer("centre", torch.zeros(self.feature_dim))

    def forward(
        self,
        embeddings: Float[Tensor, "batch dim"],
        embeddings_b: Float[Tensor, "batch dim"],
        target_embeddings: Float[Tensor, "batch dim"],
        target_embeddings_b: Float[Tensor, "batch dim"],
        crop_embeddings: Float[Tensor, "batch crops dim"] | None = None,
        epoch: float | None = None,
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        *students, teacher, teacher_b = alike_vectors(
            self._identifier,
            embeddings=embeddings,
            embeddings_b=embeddings_b,
            target_embeddings=target_embeddings,
            target_embeddings_b=target_embeddings_b,
        )
        self._check(embeddings, crop_embeddings)
        if crop_embeddings is not None:
            students += full_precision(crop_embeddings).to(teacher.dtype).unbind(dim=1)
        with torch.autocast(embeddings.device.type, enabled=False):
            log_p = [log_probabilities(student / self.temperature) for student in students]
            values = []
            for view, targets in enumerate((teacher, teacher_b)):
                centred = targets.detach() - self.centre.to(targets)
                q = probabilities(centred / self.temperature_at(epoch))
                values += [-(q * each).sum(dim=-1) for other, each in enumerate(log_p) if other != view]
        return reduce(torch.stack(values).mean(dim=0), self.reduction)

    def temperature_at(self, epoch: float | None) -> float:
        """τ_t in this epoch.

        Raises:
            ValueError: no epoch while τ_t follows it.
        """
        if not self.warm_up_epochs:
            return self.teacher_temperature
        if epoch is None:
            raise ValueError(
                f"{self._identifier}: warm_up_epochs={self.warm_up_epochs} came without an epoch; give epoch=, or "
                "warm_up_epochs=0."
            )
        begun = epoch / max(self.warm_up_epochs - 1, 1) if epoch < self.warm_up_epochs else 1.0
        return self.warm_up_temperature + begun * (self.teacher_temperature - self.warm_up_temperature)

    @torch.no_grad()
    def after_step(self, **tensors: Any) -> None:
        """Move the centre towards the mean of the teacher's outputs."""
        outputs = torch.cat([tensors["target_embeddings"], tensors["target_embeddings_b"]])
        if len(outputs):
            moved = self.centre.lerp(outputs.to(self.centre).mean(dim=0), 1 - self.momentum)
            # What is not finite, as in a step that `NumericsGuard` leaves out, would spoil every later one.
            self.centre.copy_(torch.where(moved.isfinite().all(), moved, self.centre))

    def _check(self, embeddings: Tensor, crops: Tensor | None) -> None:
        if embeddings.shape[1] != self.feature_dim:
            raise ValueError(
                f"{self._identifier}: embeddings of shape {list(embeddings.shape)} came with "
                f"feature_dim={self.feature_dim}; give as many dimensions."
            )
        if crops is None:
            return
        check_floating(self._identifier, "crop_embeddings", crops)
        if crops.ndim != 3 or crops.shape[::2] != embeddings.shape:
            raise ValueError(
                f"{self._identifier}: crop_embeddings of shape {list(crops.shape)} came with embeddings of shape "
                f"{list(embeddings.shape)}; give [B, V, D] of the same samples and width."
            )
