"""Fishr: the gradients of the classifier's head shall vary alike in all domains."""

from dataclasses import field
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.domains.domain_penalty import DomainRows, domain_rows
from lightning_losses.numerics.checks import check_embeddings
from lightning_losses.numerics.domains import variance_of_present
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.settings import Bound, Count
from lightning_losses.numerics.vectors import refuse_powers


class Fishr(Loss):
    """Fishr: the gradients of the classifier's head shall vary alike in all domains.

    ``mean_e mean_k (v_e - mean_e v)²``, v_e being the variance over a domain's samples, divided by their number, of
    each of the K entries of a sample's gradient of cross-entropy by a linear head's weight and bias, ``(p - t) x^T``
    and ``p - t``. Each v_e is joined with those of the steps before: ``v_e + α m_e / (1 - α)`` takes its place, with a
    moving average ``m_e ← α m_e + (1 - α) v_e``, which begins at 0 and has no gradient. So the value grows over the
    first ``1 / (1 - α)`` steps, and the gradient does not depend on α otherwise.

    The averages are buffers, in checkpoints; `ObjectiveMixin` lets the loss renew them after each batch. A domain
    without a sample in the batch is left out and keeps its average.

    Args:
        num_domains: E, at least 1.
        num_classes: C, at least 2.
        feature_dim: D, the width of the head's input, at least 1.
        ema: α, at least 0 and below 1.
        ignore_index: rows with this target are ignored.

    Attributes:
        moving_variance: [E, C (D + 1)] the moving averages.

    Shapes:
        logits: [B, C]; features: [B, D], the head's input, which the logits are a linear function of; target: [B]
            class indices; domain: [B] int64, from 0 to E - 1.

    Returns:
        A scalar; 0 with fewer than two domains.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a domain out of range, or features
            above about 6e7 in float32, whose fourth powers are too large, on a CPU and under `debug`.

    Source:
        Ramé, Dancette, Cord, 2021, "Fishr: Invariant Gradient Variances for Out-of-Distribution Generalization",
        arXiv:2109.02934; DomainBed has it with their code, whose gradients of single samples by the package backpack
        are in closed form here.

    Example:
        >>> loss = Fishr(num_domains=2, num_classes=2, feature_dim=1)
        >>> logits, features = torch.zeros(4, 2), torch.tensor([[1.0], [1.0], [2.0], [2.0]])
        >>> target, domain = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
        >>> loss(logits, target, domain, features).item()  # variances 1/4 and 1 by the weights, 1/4 by the biases
        0.0703125
    """

    batch_coupled = True
    status = "paper"
    evidence = "facebookresearch/DomainBed for all but the gradients of single samples"

    num_domains: Count
    num_classes: Annotated[int, Bound(least=2)]
    feature_dim: Count
    ema: Annotated[float, Bound(least=0, below=1)] = 0.95
    ignore_index: int = field(default=-100, kw_only=True)
    moving_variance: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        entries = self.num_classes * (self.feature_dim + 1)
        self.register_buffer("moving_variance", torch.zeros(self.num_domains, entries))

    def forward(
        self,
        logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"],
        domain: Int[Tensor, " batch"],
        features: Float[Tensor, "batch dim"],
    ) -> Float[Tensor, ""]:
        """Check and evaluate; the class documents what."""
        given, variance = self._variances(logits, target, domain, features)
        joined = variance + self.ema / (1 - self.ema) * self.moving_variance.to(variance)
        return variance_of_present(joined, given.present).mean()

    @torch.no_grad()
    def after_step(self, **tensors: Any) -> None:
        """Renew the moving averages of the domains that are present."""
        names = ("logits", "target", "domain", "features")
        given, variance = self._variances(*(tensors[name] for name in names))
        moved = torch.lerp(variance.to(self.moving_variance), self.moving_variance, self.ema)
        # What is not finite, as in a step that `NumericsGuard` leaves out, would spoil every later one.
        sound = given.present.unsqueeze(1) & moved.isfinite()
        self.moving_variance.copy_(torch.where(sound, moved, self.moving_variance))

    def _variances(
        self,
        logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"],
        domain: Int[Tensor, " batch"],
        features: Float[Tensor, "batch dim"],
    ) -> tuple[DomainRows, Float[Tensor, "domains entries"]]:
        given = domain_rows(self._identifier, logits, target, domain, self.num_domains, self.ignore_index)
        check_embeddings(self._identifier, "features", features)
        came = given.log_p.shape[-1], features.shape[1]
        if came != (self.num_classes, self.feature_dim) or len(features) != len(target) or target.ndim != 1:
            raise ValueError(
                f"{self._identifier}: logits of {came[0]} classes and features of shape {list(features.shape)} came "
                f"with num_classes={self.num_classes} and feature_dim={self.feature_dim}, for a target of shape "
                f"{list(target.shape)}; give the input of the classifier's head, and the sizes that it has."
            )
        counted = given.member.sum(dim=0).unsqueeze(1)
        # Ignored samples may hold anything.
        inputs = full_precision(features).to(given.log_p).masked_fill(counted == 0, 0.0)
        refuse_powers(self._identifier, 4, (1 - self.ema) ** -2, features=inputs)
        inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
        slopes = given.log_p.exp() - torch.zeros_like(given.log_p).scatter(1, given.target.unsqueeze(1), 1.0)
        share = given.member / given.member.sum(dim=1, keepdim=True).clamp(min=1)
        with torch.autocast(inputs.device.type, enabled=False):
            means, squares = (
                torch.einsum("eb,bc,bd->ecd", share, slopes**power, inputs**power).flatten(1) for power in (1, 2)
            )
        return given, squares - means.square()
