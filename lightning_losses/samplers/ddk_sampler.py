"""Domain sampling for distillation: more samples from domains in which the student lags behind its teacher."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Sampler

from lightning_losses.numerics.checks import check_count, check_number
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.samplers.resumable import samples_by_label


def initial_domain_weights(
    student_ce: Float[Tensor, " domains"], teacher_ce: Float[Tensor, " domains"]
) -> Float[Tensor, " domains"]:
    """``softmax`` of the domains' perplexity ratios, student's divided by teacher's.

    Raises:
        ValueError: shapes that do not fit; no domains; cross-entropies that are not finite.
    """
    return torch.softmax(_ratios(student_ce, teacher_ce), dim=-1)


def updated_domain_weights(
    weights: Float[Tensor, " domains"],
    student_ce: Float[Tensor, " domains"],
    teacher_ce: Float[Tensor, " domains"],
    *,
    alpha: float = 0.5,
) -> Float[Tensor, " domains"]:
    """The next weights: the old ones times exp(perplexity ratio), normalised, mixed with uniform weights.

    Args:
        weights: [D] the old weights.
        student_ce: [D] the student's mean cross-entropy on held-out text of each domain.
        teacher_ce: [D] the teacher's, which is constant.
        alpha: the share of the new weights; no domain falls below ``(1 - alpha) / D``.

    Source:
        Liu, Zhang, Guo et al., 2024, "DDK: Distilling Domain Knowledge for Efficient Large Language Models",
        arXiv:2407.16154; implemented from the paper's text. The paper uses alpha 0.5 and renews the weights every 1000
        steps, on 500 samples of each domain.

    Example:
        >>> even = torch.tensor([0.5, 0.5])
        >>> updated_domain_weights(even, torch.tensor([2.0, 1.0]), torch.tensor([1.0, 1.0])).round(decimals=3)
        tensor([0.6740, 0.3260])
    """
    check_number("ddk_sampler", "alpha", alpha, least=0, most=1)
    ratios = _ratios(student_ce, teacher_ce)
    if weights.shape != ratios.shape or not _is_distribution(weights):
        raise ValueError(
            f"ddk_sampler: weights {weights.tolist()} came for {len(ratios)} domains; give as many non-negative "
            "numbers of sum 1."
        )
    # Under the softmax a factor exp(ratio) is a summand ratio, and large ratios don't overflow.
    renewed = torch.softmax(weights.log() + ratios, dim=-1)
    return alpha * renewed + (1 - alpha) / weights.shape[-1]


def _ratios(student_ce: Tensor, teacher_ce: Tensor) -> Tensor:
    if student_ce.shape != teacher_ce.shape or student_ce.ndim != 1 or len(student_ce) == 0:
        raise ValueError(
            f"ddk_sampler: student_ce of shape {list(student_ce.shape)} came with teacher_ce of shape "
            f"{list(teacher_ce.shape)}; give one cross-entropy for each domain to both."
        )
    if not bool((student_ce.isfinite() & teacher_ce.isfinite()).all()):
        raise ValueError(
            f"ddk_sampler: cross-entropies {student_ce.tolist()} and {teacher_ce.tolist()} came; give finite numbers, "
            "and leave out domains without tokens."
        )
    # Clamped to the largest float; the softmax subtracts the maximum.
    ratios = (full_precision(student_ce) - full_precision(teacher_ce)).exp()
    return ratios.clamp(max=torch.finfo(ratios.dtype).max)


def _is_distribution(weights: Tensor) -> bool:
    # NaN compares as false.
    return bool((weights >= 0).all()) and abs(weights.sum().item() - 1) <= 1e-4


class DomainSampler(Sampler[int]):
    """Draws samples domain by domain, with weights that may change while it runs.

    Within a domain samples come in a shuffled order; when all are used, the domain is shuffled anew. The draws depend
    only on the seed, the epoch and the weights, so that processes agree if these are equal; each takes its share.

    Args:
        domains: the domain, from 0 on, of every sample of the data set.
        num_samples: samples per epoch, over all processes; by default the size of the data set.
        seed: seed of all draws.
        num_replicas: the number of processes.
        rank: this process.

    Raises:
        ValueError: no samples, a domain without samples, or fewer samples than processes; a rank that doesn't exist;
            later, weights that are no distribution over the domains.

    Example:
        >>> sampler = DomainSampler([0, 0, 1, 1])
        >>> sampler.set_weights(torch.tensor([1.0, 0.0]))
        >>> sorted(sampler)
        [0, 0, 1, 1]
    """

    def __init__(
        self,
        domains: Sequence[int] | Int[Tensor, " n"],
        num_samples: int | None = None,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        belongs = torch.as_tensor(domains)
        if belongs.ndim != 1 or len(belongs) == 0 or belongs.is_floating_point() or int(belongs.min()) < 0:
            raise ValueError(
                f"ddk_sampler: domains of shape {list(belongs.shape)} and dtype {belongs.dtype} came; give the number "
                "of its domain, from 0 on, for each of at least one sample."
            )
        members = samples_by_label(belongs)
        if empty := sorted(set(range(max(members))) - set(members)):
            raise ValueError(f"ddk_sampler: domains {empty} have no samples; number the domains from 0 without gaps.")
        self.members = list(members.values())
        self.num_samples = len(belongs) if num_samples is None else num_samples
        check_count("ddk_sampler", "num_samples", self.num_samples)
        check_count("ddk_sampler", "num_replicas", num_replicas)
        if not 0 <= rank < num_replicas or self.num_samples < num_replicas:
            raise ValueError(
                f"ddk_sampler: rank={rank} of {num_replicas} processes came for {self.num_samples} samples; give ranks "
                "from 0 on, and a sample for each process."
            )
        self.num_replicas = num_replicas
        self.rank = rank
        self.seed = seed
        self.epoch = 0
        self.weights = torch.tensor([len(members) for members in self.members], dtype=torch.float64) / len(belongs)

    def set_weights(self, weights: Float[Tensor, " domains"]) -> None:
        """Draw with these weights from now on, also within an epoch."""
        if weights.shape != self.weights.shape or not _is_distribution(weights):
            raise ValueError(
                f"ddk_sampler: weights {weights.tolist()} came; give {len(self.members)} non-negative numbers of sum 1."
            )
        self.weights = weights.detach().double().cpu().clone()

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of another epoch; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        waiting: list[list[int]] = [[] for _ in self.members]
        # Surplus samples are dropped, so that all processes take the same number of steps.
        for number in range(len(self) * self.num_replicas):
            domain = int(torch.multinomial(self.weights, 1, generator=generator))
            if not waiting[domain]:
                members = self.members[domain]
                waiting[domain] = members[torch.randperm(len(members), generator=generator)].tolist()
            position = waiting[domain].pop()
            if number % self.num_replicas == self.rank:
                yield position
