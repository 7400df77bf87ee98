"""The mixin that mixes samples of one domain with those of another."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.mixins.mixup import mixture_weights, unmixed
from lightning_losses.mixins.objective import ObjectiveMixin
from lightning_losses.numerics.domains import check_domains
from lightning_losses.numerics.rows import check_classes, labelled_rows
from lightning_losses.objective.ignored_targets import ignored_targets


class DomainMixtures(NamedTuple):
    """A mixture for each sample, and the mixture's class probabilities, all 0 where there is no partner."""

    inputs: Float[Tensor, "batch ..."]
    target: Float[Tensor, "batch classes"]


class DomainMixupMixin(ObjectiveMixin):
    """Mixes each sample with one of another domain, and offers the objective `mixup_logits` and `mixup_target`.

    The domains that the batch has stand on a ring, in a drawn order. The k-th sample of a domain is mixed with the k-th
    of the next one, as far as that has so many, with one share for each two domains, from a Beta distribution. A
    single domain is mixed with itself, sample by sample, which changes nothing. The draws are torch's own, on the CPU.
    Partners are of the process's own batch, which should be balanced over domains; ignored samples are not mixed. A
    trainer's evaluation, and evaluation mode without a trainer, mix nothing and draw nothing: each sample is its own
    mixture.

    Training on mixtures is cross-entropy of them, ``Term(CrossEntropy(), inputs={"logits": "mixup_logits", "target":
    "mixup_target"})``.

    Attributes:
        num_domains: E, at least 1; the step's `domain` counts from 0.
        mixup_alpha: the parameter of the symmetric Beta distribution, above 0.

    Source:
        Yan, Song, Li, Zou, Ren, 2020, "Improve Unsupervised Domain Adaptation with Mixup Training", arXiv:2001.00677,
        and Xu, Zhang, Ni, Li, Wang, Tian, Zhang, 2019, "Adversarial Domain Adaptation with Domain Mixup",
        arXiv:1912.01805, of two domains; the ring of several is DomainBed's. It takes the mean over the pairs of
        domains, which is the mean over mixtures where batches are balanced.

    Example:
        >>> import lightning
        >>> from lightning_losses import CrossEntropy, Objective, Term
        >>> class Mixed(DomainMixupMixin, lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.num_domains, self.network = 2, torch.nn.Linear(4, 3)
        ...         self.objective = Objective({"mixup": Term(CrossEntropy(), inputs={"logits": "mixup_logits",
        ...                                                                           "target": "mixup_target"})})
        ...     def forward(self, inputs):
        ...         return self.network(inputs)
        ...     def training_step(self, batch, batch_idx):
        ...         return self.apply_objective(logits=self(batch["inputs"]), **batch)
        >>> batch = {"inputs": torch.zeros(2, 4), "target": torch.tensor([0, 1]), "domain": torch.tensor([0, 1])}
        >>> Mixed().training_step(batch, 0)["loss"].shape
        torch.Size([])
    """

    num_domains: int = 1
    mixup_alpha: float = 0.2

    def objective_tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Add the mixtures' logits and targets, if the objective takes them."""
        tensors = super().objective_tensors(tensors)
        wanted = self.objective.needs("mixup_logits") or self.objective.needs("mixup_target")
        if not wanted or "mixup_logits" in tensors:
            return tensors
        if missing := [name for name in ("inputs", "logits", "target", "domain") if name not in tensors]:
            raise ValueError(
                f"{type(self).__name__}: mixtures of domains need {', '.join(map(repr, missing))}; the step offered "
                f"{', '.join(map(repr, sorted(tensors)))}."
            )
        if not self.mixes:
            return {**tensors, **unmixed(tensors["logits"], tensors["target"], 1, *ignored_targets(self))}
        shares = mixture_weights(2, self.mixup_alpha, (self.num_domains,))[:, 0]
        inputs, target, domain = (tensors[name] for name in ("inputs", "target", "domain"))
        classes, order = tensors["logits"].shape[-1], torch.randperm(self.num_domains)
        mixed = mix_domains(inputs, target, domain, classes, order, shares, *ignored_targets(self))
        with self.beside_the_batch():
            return {**tensors, "mixup_logits": self(mixed.inputs), "mixup_target": mixed.target}


def mix_domains(
    inputs: Float[Tensor, "batch ..."],
    target: Int[Tensor, " batch"],
    domain: Int[Tensor, " batch"],
    num_classes: int,
    order: Int[Tensor, " domains"],
    shares: Float[Tensor, " domains"],
    *ignored: int,
) -> DomainMixtures:
    """A mixture of each sample with one of the next domain on a ring.

    Args:
        inputs: [B, ...] floating-point.
        target: [B] class indices; a sample with -100 is mixed with nothing.
        domain: [B] int64, from 0 on.
        num_classes: C.
        order: [E] the domains in their order on the ring.
        shares: [E] of the sample's own domain in the mixture, in [0, 1], by its place on the ring among those that the
            batch has.
        *ignored: targets of the samples that are mixed with nothing, in place of -100.

    Raises:
        ValueError: inputs that can't be mixed; a target or a domain out of range.

    Example:
        >>> inputs, target = torch.tensor([[0.0], [8.0]]), torch.tensor([0, 1])
        >>> mix_domains(inputs, target, torch.tensor([0, 1]), 2, torch.tensor([0, 1]), torch.tensor([0.75, 0.75]))[0]
        tensor([[2.],
                [6.]])
    """
    if not inputs.is_floating_point():
        raise ValueError(f"mix_domains: inputs have dtype {inputs.dtype}; only floating-point inputs can be mixed.")
    check_domains("mix_domains", domain, target, len(order), setting="num_domains", name="target")
    kept = labelled_rows(target, *ignored)
    check_classes("mix_domains", target.masked_fill(~kept, -100), num_classes)
    # Copied without waiting for the device; all that follows runs there, and no number of samples is read.
    order, shares = (one.to(domain.device, non_blocking=True) for one in (order, shares))
    member = (domain.unsqueeze(0) == order.unsqueeze(1)) & kept
    present = member.any(dim=1)
    # Absent domains leave the ring.
    on_ring = (~present).to(torch.uint8).argsort(stable=True)
    member = member[on_ring].to(torch.int64)
    place = (member * torch.arange(len(order), device=domain.device).unsqueeze(1)).sum(dim=0)
    following = (place + 1) % present.sum().clamp(min=1)
    rank = ((member.cumsum(dim=1) - 1) * member).sum(dim=0)
    partner = (place.unsqueeze(0) == following.unsqueeze(1)) & (rank.unsqueeze(0) == rank.unsqueeze(1)) & kept
    paired = kept & partner.any(dim=1)
    itself = torch.arange(len(domain), device=domain.device)
    chosen = torch.where(paired, partner.to(torch.uint8).argmax(dim=1), itself) if len(domain) else itself
    share = shares[place].to(inputs.dtype)
    classes = F.one_hot(target.masked_fill(~kept, 0), num_classes).to(inputs.dtype)
    mixed_target = share.unsqueeze(1) * classes + (1 - share).unsqueeze(1) * classes[chosen]
    share = share.view(-1, *(1 for _ in inputs.shape[1:]))
    mixed_inputs = share * inputs + (1 - share) * inputs[chosen]
    return DomainMixtures(mixed_inputs, mixed_target * paired.unsqueeze(1))
