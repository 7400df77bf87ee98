"""Weighted self-distillation: each generation fits the label and the generation before it."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import LabelledDistillationLoss, LabelledRows
from lightning_losses.numerics.checks import check_count, check_number
from lightning_losses.numerics.probabilities import probabilities
from lightning_losses.numerics.rows import one_hot
from lightning_losses.numerics.settings import Share


class Generations(NamedTuple):
    """The targets that each generation of kernel ridge regression fits, and its predictions."""

    targets: Float[Tensor, "steps n"]
    fits: Float[Tensor, "steps n"]
    val_fits: Float[Tensor, "steps m"]


def kernel_generations(
    kernel: Float[Tensor, "n n"],
    val_kernel: Float[Tensor, "m n"],
    target: Float[Tensor, " n"],
    *,
    alpha: float,
    ridge: float,
    steps: int,
) -> Generations:
    """Generations of kernel ridge regression: each fits ``alpha target + (1 - alpha) fit of the previous one``.

    Args:
        kernel: [n, n] of the training samples with themselves.
        val_kernel: [m, n] of other samples with the training samples.
        target: [n] the targets of the first generation.
        alpha: the weight of the target in later generations.
        ridge: added to the kernel's diagonal, above 0.
        steps: the number of generations, at least 1.
    """
    check_number("self_distill_gt", "ridge", ridge, above=0)
    check_count("self_distill_gt", "steps", steps)
    eye = torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    factor = torch.linalg.cholesky(kernel + ridge * eye)
    targets, fits, val_fits = [target], [], []
    for step in range(steps):
        coefficients = torch.cholesky_solve(targets[-1].unsqueeze(-1), factor).squeeze(-1)
        fits.append(kernel @ coefficients)
        val_fits.append(val_kernel @ coefficients)
        if step < steps - 1:
            targets.append(alpha * target + (1 - alpha) * fits[-1])
    return Generations(torch.stack(targets), torch.stack(fits), torch.stack(val_fits))


def optimal_alpha(
    from_target: Float[Tensor, "..."], from_teacher: Float[Tensor, "..."], target: Float[Tensor, "..."]
) -> Float[Tensor, ""]:
    """The α that brings ``α from_target + (1 - α) from_teacher`` closest to held-out targets; it may leave [0, 1].

    Args:
        from_target: held-out predictions of a model fitted to the labels alone.
        from_teacher: held-out predictions of a model fitted to the previous generation alone.
        target: the held-out targets.

    Example:
        >>> optimal_alpha(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0]), torch.tensor([0.25, 3.0])).item()
        0.25
    """
    difference = from_target - from_teacher
    return ((target - from_teacher) * difference).sum() / difference.square().sum()


class SelfDistillGT(LabelledDistillationLoss):
    """Weighted self-distillation: each generation fits the label and the generation before it.

    ``α |s - q|² / C + (1 - α) |s - t|² / C`` between probabilities, q the one-hot (or given) target. Each generation is
    the next one's teacher. For kernel ridge regression the generations have a closed form (`kernel_generations`): α = 1
    repeats the first fit, α = 0 shrinks it to 0, and in between they converge to the fit with the ridge divided by α.
    `optimal_alpha` gives the best α for the next generation.

    Args:
        alpha: α, the weight of the label, in [0, 1].

    Shapes:
        logits, teacher_logits: [..., C], the teacher being the previous generation; target: [...] class indices or
        [..., C]
        probabilities.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; an alpha outside [0, 1].

    Source:
        Borup, Andersen, 2021, "Even your Teacher Needs Guidance: Ground-Truth Targets Dampen Regularization Imposed by
        Self-Distillation", arXiv:2102.13088, and its code Kennethborup/self_distillation. The best α is derived here
        from predictions that are linear in the targets. It agrees with the paper's idea and was not compared with its
        theorem. α = 1/2 is this library's choice.

    Example:
        >>> logits, target = torch.tensor([[0.0, 0.0]]), torch.tensor([0])
        >>> SelfDistillGT(alpha=0.5)(logits, logits, target).item()
        0.125
    """

    status = "paper"
    evidence = "an independent evaluation of the formula"

    alpha: Share = 0.5

    def rows(self, given: LabelledRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        s, t, target = probabilities(given.logits), probabilities(given.teacher_logits), given.target
        label = target if target.is_floating_point() else one_hot(target, s)
        to_label, to_teacher = ((s - goal).square().mean(dim=-1) for goal in (label, t))
        return self.alpha * to_label + (1 - self.alpha) * to_teacher
