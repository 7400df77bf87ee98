"""Divergences that the kernel evaluates, and what their classes make of the logits."""

import torch

from lightning_losses import losses
from lightning_losses.numerics.reduction import reduce

OBJECTIVES = {
    "kd": losses.KD(2.0),
    "forward_kl": losses.ForwardKL(),
    "reverse_kl": losses.ReverseKL(1.5, tau_squared=True),
    "symmetric_kl": losses.SymmetricKL(0.3, 2.0),
    "jsd": losses.GeneralizedJSD(),
    "jsd_skewed": losses.GeneralizedJSD(0.2, 2.0, tau_squared=True),
    "jsd_0": losses.GeneralizedJSD(0.0),
    "jsd_1": losses.GeneralizedJSD(1.0),
    "skew_kl": losses.SkewKL(),
    "skew_kl_0": losses.SkewKL(0.0, 3.0),
    "skew_rkl": losses.SkewRKL(0.3, 2.0),
    "total_variation": losses.TotalVariation(),
    "ab": losses.ABDivergence(),
    "ab_forward": losses.ABDivergence(1.0, 0.0),
    "nkd": losses.NKD(),
    "nkd_softened": losses.NKD(2.0, temperature=2.0),
}


def of_class(objective, tensors, target, kept, options, teacher_logits=None):
    """The value that the loss's class and cross-entropy have on the logits in float64."""
    hidden, weight, bias, teacher_hidden, teacher_weight, teacher_bias = tensors
    logits = hidden @ weight.t() + bias
    if teacher_logits is None:
        teacher_logits = teacher_hidden @ teacher_weight.t() + teacher_bias
    label = torch.where(kept, target, -100)
    settings = {name: value for name, value in vars(objective).items() if name in objective.__dataclass_fields__}
    soft = type(objective)(**{**settings, "reduction": "none"})(logits, teacher_logits.to(logits), label)
    hard = torch.nn.functional.cross_entropy(logits, label, reduction="none")
    rows = options.get("soft_weight", 1.0) * soft + options.get("hard_weight", 0.0) * hard
    # A given normalizer in place of the count.
    scale = kept.sum() / options["normalizer"] if "normalizer" in options else 1.0
    return scale * reduce(rows, options.get("reduction", "mean"), kept), (scale * soft, scale * hard)
