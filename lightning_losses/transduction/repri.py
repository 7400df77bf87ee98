"""RePRI: foreground and background of new images from a few masks, and from the unlabelled images themselves."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.settings import Count, Declared, NonNegative, Positive
from lightning_losses.transduction.repri_terms import Prototype, mean_of_counted, repri_terms


class Segmented(NamedTuple):
    """What RePRI found.

    Attributes:
        foreground: [tasks, queries, h, w] the probability of foreground.
        proportions: [tasks, 2] of background and foreground, as they were estimated or given.
    """

    foreground: Float[Tensor, "tasks queries height width"]
    proportions: Float[Tensor, "tasks 2"]


class RePRI(Declared):
    """Segmentation of images from a few masks by a classifier that is fitted to the masks and to the images themselves.

    ``CE + λ_KL KL(p̂ || π) + λ_H H`` is minimised by gradient descent over a prototype and a bias for each task, whose
    features stay as they are; see `repri_terms`. The prototype begins as the mean feature of the foreground, the bias
    as the mean cosine of the query, and the proportions π as its mean prediction. After `refresh` steps less one π is
    taken anew, and from then on λ_KL is larger by 1.

    Args:
        temperature: s, the factor of the cosines, above 0.
        learning_rate: above 0.
        steps: of gradient descent.
        refresh: at which step the proportions are taken anew, counted from 1; beyond `steps` never.
        divergence: λ_KL, at least 0; None takes one over the number of labelled images.
        entropy: λ_H, likewise.

    Shapes:
        support: [tasks, shots, D, h, w]; mask: [tasks, shots, H, W] of 1, 0 and 255, brought to h and w; query: [tasks,
        queries, D, h, w]; valid (optional): [tasks, queries, h, w] from 0 to 1, 0 for pixels that do not count;
        proportions (optional): [tasks, 2] of sum 1, where they are known.

    Returns:
        See `Segmented`; in float32 at least.

    Raises:
        ValueError: shapes that do not fit; features with NaN or inf; masks, valid or proportions of other values; a
            task without a pixel of foreground, or without one to classify; steps so large that they diverge.

    Source:
        Boudiaf et al., 2021, arXiv:2012.06166, and its code; see `repri_terms`.

    Example:
        >>> maps = torch.tensor([[1.0, 1.0, -1.0, -1.0], [0.5, -0.5, 0.5, -0.5]]).reshape(1, 1, 2, 1, 4)
        >>> found = RePRI()(maps, torch.tensor([[[[1, 1, 0, 0]]]]), maps)
        >>> (found.foreground > 0.5).int().tolist()
        [[[[1, 1, 0, 0]]]]
    """

    name = "repri"

    temperature: Positive = 20.0
    learning_rate: Positive = 0.025
    steps: Count = 49
    refresh: Count = 10
    divergence: NonNegative | None = None
    entropy: NonNegative | None = None

    def __call__(
        self,
        support: Float[Tensor, "tasks shots d h w"],
        mask: Int[Tensor, "tasks shots height width"],
        query: Float[Tensor, "tasks queries d h w"],
        valid: Float[Tensor, "tasks queries h w"] | None = None,
        proportions: Float[Tensor, "tasks 2"] | None = None,
    ) -> Segmented:
        """Segment the queries of each task, also in inference mode."""
        _check_proportions(self.name, proportions, len(support))
        precise = torch.autocast(support.device.type, enabled=False)
        with torch.inference_mode(False), torch.enable_grad(), precise:
            features, mask, queries, counted = self._checked(support, mask, query, valid)
            prototype = self._start(features, mask, queries)
            pi = self._marginal(prototype, queries, counted) if proportions is None else proportions.to(queries)
            weights = [1 / features.shape[1] if own is None else own for own in (self.divergence, self.entropy)]
            optimizer = torch.optim.SGD([prototype.weight, prototype.bias], lr=self.learning_rate)
            for step in range(1, self.steps + 1):
                terms = repri_terms(prototype, features, mask, queries, counted, pi)
                loss = terms.cross_entropy + weights[0] * terms.divergence + weights[1] * terms.entropy
                gradients = torch.autograd.grad(loss.sum(), [prototype.weight, prototype.bias])
                prototype.weight.grad, prototype.bias.grad = gradients
                optimizer.step()
                if step + 1 == self.refresh and proportions is None and weights[0]:
                    pi, weights[0] = self._marginal(prototype, queries, counted), weights[0] + 1
            foreground = prototype.probabilities(queries)[:, :, 1].detach()
        if not bool(foreground.isfinite().all()):
            raise ValueError(f"{self.name}: the steps diverged; lower learning_rate={self.learning_rate}, or weights.")
        return Segmented(foreground, pi)

    def _start(self, support: Tensor, mask: Tensor, query: Tensor) -> Prototype:
        foreground = (mask == 1).unsqueeze(2)
        weight = (support * foreground).sum(dim=(1, 3, 4)) / (foreground.sum(dim=(1, 3, 4)).clamp(min=1))
        prototype = Prototype(weight, weight.new_zeros(len(weight)), self.temperature)
        prototype.bias = prototype.cosines(query).mean(dim=(1, 2, 3)).requires_grad_()
        prototype.weight = weight.requires_grad_()
        return prototype

    @torch.no_grad()
    def _marginal(self, prototype: Prototype, query: Tensor, valid: Tensor) -> Float[Tensor, "tasks 2"]:
        predicted = prototype.probabilities(query)
        return torch.stack([mean_of_counted(predicted[:, :, part], valid) for part in (0, 1)], dim=1)

    def _checked(
        self, support: Tensor, mask: Tensor, query: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tensors that gradients can be taken of, the mask in the features' size."""
        for name, features in (("support", support), ("query", query)):
            check_floating(self.name, name, features)
            if not bool(features.isfinite().all()):
                raise ValueError(f"{self.name}: {name} holds NaN or inf; leave those images out.")
        alike = support.ndim == query.ndim == 5 and support.shape[::2] == query.shape[::2]
        if not alike or mask.ndim != 4 or mask.shape[:2] != support.shape[:2]:
            raise ValueError(
                f"{self.name}: support of shape {list(support.shape)} came with a mask of {list(mask.shape)} and "
                f"queries of {list(query.shape)}; give features [tasks, images, D, h, w], and a mask of each "
                "labelled image."
            )
        if not bool(((mask == 0) | (mask == 1) | (mask == 255)).all()):
            raise ValueError(
                f"{self.name}: a mask holds values other than 1 for foreground, 0 for background and 255 for what does "
                "not count; change them to these."
            )
        if mask.shape[-2:] != support.shape[-2:]:
            mask = interpolate(mask.float(), size=support.shape[-2:], mode="nearest").long()
        dtype = torch.promote_types(full_precision(support).dtype, full_precision(query).dtype)
        counted = torch.ones_like(query[:, :, 0], dtype=dtype) if valid is None else valid.to(dtype)
        if counted.shape != query[:, :, 0].shape or not bool(((counted >= 0) & (counted <= 1)).all()):
            raise ValueError(
                f"{self.name}: valid of shape {list(counted.shape)} came for queries of {list(query.shape)}; give a "
                "number from 0 to 1 for each pixel of their features."
            )
        if not bool((mask == 1).flatten(1).any(dim=1).all() & counted.flatten(1).any(dim=1).all()):
            raise ValueError(
                f"{self.name}: a task has no pixel of foreground in its masks, or none to classify; leave it out."
            )
        return support.detach().clone().to(dtype), mask.clone(), query.detach().clone().to(dtype), counted.clone()


def _check_proportions(who: str, proportions: Tensor | None, tasks: int) -> None:
    if proportions is None:
        return
    if proportions.shape != (tasks, 2) or not bool(
        (proportions >= 0).all() & ((proportions.sum(dim=1) - 1).abs() < 1e-2).all()
    ):
        raise ValueError(
            f"{who}: proportions of shape {list(proportions.shape)} came for {tasks} tasks; give the shares of "
            "background and foreground of each, which sum to 1."
        )
