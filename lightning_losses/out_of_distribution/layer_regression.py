"""Weighs the layers' scores by logistic regression of held-out samples of both kinds."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.diagnostics.linear_heads import LinearHead, logistic_head
from lightning_losses.metrics.out_of_distribution import out_of_distribution_detection


class LayerRegression(NamedTuple):
    """A regression of layers' scores, and how well it tells the samples that it was fitted to."""

    head: LinearHead
    auroc: float

    def log_odds(self, scores: Float[Tensor, "batch layers"]) -> Float[Tensor, " batch"]:
        """The logarithm of the odds that a sample is known, in float64."""
        known, foreign = self.head.logits(scores.cpu()).to(scores.device).unbind(dim=1)
        return known - foreign


def layer_regression(
    who: str, known: Float[Tensor, "known layers"], foreign: Float[Tensor, "foreign layers"]
) -> LayerRegression:
    """Fit the regression, of standardised scores, to the optimum.

    Args:
        who: the name that errors begin with.
        known: [n, L] scores of samples like the training data.
        foreign: [m, L] scores of others.

    Raises:
        ValueError: no samples of one kind.

    Example:
        >>> fitted = layer_regression("doc", torch.tensor([[3.0], [2.0]]), torch.tensor([[1.0], [0.0]]))
        >>> fitted.auroc, bool(fitted.log_odds(torch.tensor([[1.6]])) > 0)
        (1.0, True)
    """
    if not len(known) or not len(foreign):
        raise ValueError(
            f"{who}: {len(known)} known and {len(foreign)} foreign inputs came to tune; give some of both."
        )
    scores, is_ood = torch.cat([known, foreign]), torch.arange(len(known) + len(foreign)) >= len(known)
    with torch.inference_mode(False):
        fitted = LayerRegression(logistic_head(scores.clone(), is_ood.long(), 2), 0.0)
    found = out_of_distribution_detection(fitted.log_odds(scores), is_ood)
    return fitted._replace(auroc=float(found.auroc))
