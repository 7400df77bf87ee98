"""The mixin that mixes the samples of a batch, for mixup training and for RankMixup."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_losses.mixins.objective import ObjectiveMixin
from lightning_losses.numerics.checks import check_count, check_number
from lightning_losses.numerics.rows import check_classes, labelled_rows
from lightning_losses.objective.ignored_targets import ignored_targets

# Of the Gamma distribution; below, draws that are all 0 become likely.
_SMALLEST_SHAPE = 0.01


class MixupMixin(ObjectiveMixin):
    """Mixes the samples of a batch, and offers the objective `mixup_logits` and `mixup_target`.

    Each mixture is a weighted sum of `mixup_size` samples: the sample itself, and samples from permutations of the
    batch. The weights are drawn from a symmetric Dirichlet distribution, once for the batch. Two samples give mixup,
    more samples its generalisation. Every sample has `mixup_count` mixtures, in blocks of the batch. They run through
    the network only if the objective uses them; permutations stay within the process's own batch. A sample is ignored
    if the objective ignores its target or if its probabilities are all 0. Ignored samples are not mixed into other
    samples, and their own mixtures have no label: the loss is that of the kept samples alone. A trainer's evaluation,
    and evaluation mode without a trainer, mix nothing and draw nothing: each sample is its own mixture.

    Mixup training is cross-entropy of the mixtures, ``Term(CrossEntropy(), inputs={"logits": "mixup_logits", "target":
    "mixup_target"})``; RankMixup is cross-entropy of the samples and `RankMixupMNDCG` or `RankMixupMRL` of both.

    Attributes:
        mixup_count: Q, the mixtures of each sample, at least 1.
        mixup_size: the samples in a mixture, at least 2.
        mixup_alpha: the Dirichlet concentration, above 0; 1 is uniform, near 0 mixes little.

    Source:
        Zhang et al., 2018, "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412; mixtures of more samples:
        Chidambaram, Ge, 2023, "On the Limitations of Temperature Scaling for Distributions with Overlaps",
        arXiv:2306.00740; several mixtures: Noh et al., 2023, "RankMixup", arXiv:2308.11990.

    Example:
        >>> import lightning
        >>> from lightning_losses import CrossEntropy, Objective, Term
        >>> class Mixed(MixupMixin, lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = torch.nn.Linear(4, 3)
        ...         self.objective = Objective({"mixup": Term(CrossEntropy(), inputs={"logits": "mixup_logits",
        ...                                                                           "target": "mixup_target"})})
        ...     def forward(self, inputs):
        ...         return self.network(inputs)
        ...     def training_step(self, batch, batch_idx):
        ...         inputs, target = batch
        ...         return self.apply_objective(inputs=inputs, logits=self(inputs), target=target)
        >>> Mixed().training_step((torch.zeros(2, 4), torch.tensor([0, 1])), 0)["loss"].shape
        torch.Size([])
    """

    mixup_count: int = 1
    mixup_size: int = 2
    mixup_alpha: float = 1.0

    def objective_tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Add the mixtures' logits and targets, if the objective takes them."""
        tensors = super().objective_tensors(tensors)
        wanted = self.objective.needs("mixup_logits") or self.objective.needs("mixup_target")
        if not wanted or "mixup_logits" in tensors:
            return tensors
        if missing := [name for name in ("inputs", "logits", "target") if name not in tensors]:
            raise ValueError(
                f"{type(self).__name__}: mixtures need {', '.join(map(repr, missing))}; the step offered "
                f"{', '.join(map(repr, sorted(tensors)))}."
            )
        if not self.mixes:
            return {
                **tensors,
                **unmixed(tensors["logits"], tensors["target"], self.mixup_count, *ignored_targets(self)),
            }
        with self.beside_the_batch():
            logits, target = self.mixtures(tensors["inputs"], tensors["target"], tensors["logits"].shape[-1])
        return {**tensors, "mixup_logits": logits, "mixup_target": target}

    def mixtures(self, inputs: Tensor, target: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """The logits and the targets of all mixtures, in blocks of the batch."""
        mixed = [self.mix(inputs, target, num_classes) for _ in range(self.mixup_count)]
        return self(torch.cat([one for one, _ in mixed])), torch.cat([one for _, one in mixed])

    def mix(self, inputs: Tensor, target: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """One mixture of every sample, with its target."""
        ignored = ignored_targets(self)
        return mix(inputs, target, num_classes, *ignored, size=self.mixup_size, alpha=self.mixup_alpha)


def mix(
    inputs: Float[Tensor, "batch ..."],
    target: Shaped[Tensor, "batch ..."],
    num_classes: int,
    *ignored: int,
    size: int = 2,
    alpha: float = 1.0,
) -> tuple[Float[Tensor, "batch ..."], Float[Tensor, "batch classes"]]:
    """A mixture of every sample with others of its batch, and the mixture's class probabilities.

    Args:
        inputs: [B, ...] floating-point.
        target: [B] class indices, or [B, C] probabilities. A sample with -100, or zeros, is mixed with nothing, and has
            probabilities of 0.
        num_classes: C.
        *ignored: targets of the samples that are mixed with nothing, in place of -100.
        size: the samples in a mixture, at least 2.
        alpha: the Dirichlet concentration, above 0.

    Raises:
        ValueError: inputs that can't be mixed; a target, a size or a concentration out of range.

    Example:
        >>> inputs, target = mix(torch.eye(3), torch.tensor([0, 1, 2]), 3)
        >>> bool(torch.allclose(inputs, target))
        True
    """
    check_count("mix", "size", size)
    check_number("mix", "size", size, least=2)
    check_number("mix", "alpha", alpha, above=0)
    if not inputs.is_floating_point():
        raise ValueError(f"mix: inputs have dtype {inputs.dtype}; only floating-point inputs can be mixed.")
    kept, probabilities = _probabilities(target, num_classes, inputs.dtype, *ignored)
    weights = mixture_weights(size, alpha).tolist()
    mixed_inputs, mixed_target = weights[0] * inputs, weights[0] * probabilities
    for weight in weights[1:]:
        order = _partners(kept)
        mixed_inputs = mixed_inputs + weight * inputs[order]
        mixed_target = mixed_target + weight * probabilities[order]
    return mixed_inputs, mixed_target


def mixture_weights(size: int, alpha: float, mixtures: tuple[int, ...] = ()) -> Float[Tensor, "*mixtures size"]:
    """Weights of mixtures by a symmetric Dirichlet distribution, drawn on the CPU.

    Example:
        >>> bool(mixture_weights(2, 1e-5, (100,)).max(dim=1).values.median() > 0.99)  # hardly mixed
        True
    """
    if alpha >= _SMALLEST_SHAPE:
        return torch.distributions.Dirichlet(torch.full((size,), float(alpha))).sample(mixtures)
    # Gamma variables of so small a shape are below what double precision holds. Their logarithms are not: one of shape
    # α is one of shape α + 1, times the 1/α-th power of a uniform one.
    shape = torch.full((*mixtures, size), 1 + alpha, dtype=torch.float64)
    log_gamma = torch._standard_gamma(shape).log() + torch.rand_like(shape).log() / max(alpha, 1e-300)
    return log_gamma.softmax(dim=-1).float()


def unmixed(
    logits: Float[Tensor, "batch classes"], target: Shaped[Tensor, "batch ..."], count: int, *ignored: int
) -> dict[str, Tensor]:
    """The `mixup_logits` and `mixup_target` of samples that are each their own mixture, in `count` blocks of the batch.

    Example:
        >>> unmixed(torch.zeros(1, 2), torch.tensor([1]), 2)["mixup_target"]
        tensor([[0., 1.],
                [0., 1.]])
    """
    _, probabilities = _probabilities(target, logits.shape[-1], logits.dtype, *ignored)
    return {"mixup_logits": logits.repeat(count, 1), "mixup_target": probabilities.repeat(count, 1)}


def _probabilities(
    target: Shaped[Tensor, "batch ..."], num_classes: int, dtype: torch.dtype, *ignored: int
) -> tuple[Bool[Tensor, " batch"], Float[Tensor, "batch classes"]]:
    """Which samples have a label, and the probabilities of the classes, 0 without a label."""
    if target.is_floating_point():
        return labelled_rows(target), target
    kept = labelled_rows(target, *ignored)
    check_classes("mix", target.masked_fill(~kept, -100), num_classes)
    return kept, F.one_hot(target.masked_fill(~kept, 0), num_classes).to(dtype) * kept.unsqueeze(-1)


def _partners(kept: Bool[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """A permutation of the kept samples among themselves, that leaves the others in their places."""
    order = torch.randperm(len(kept)).to(kept.device)
    # The kept samples first, in the drawn order; their number need not be known.
    order = order[(~kept[order]).to(torch.uint8).argsort(stable=True)]
    return torch.where(kept, order[(kept.cumsum(0) - 1).clamp(min=0)], torch.arange(len(kept), device=kept.device))
