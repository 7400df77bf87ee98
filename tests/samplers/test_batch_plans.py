"""What the samplers keep that plan batches, and what each says of them."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_losses.data import ImageDataset
from lightning_losses.data.resumable import ResumableLoader
from lightning_losses.data.seeded_views import RandomShift, SeededViews, ViewSampler
from lightning_losses.samplers import (
    ClassBalancedSampler,
    DisjointPseudoLabelSampler,
    DomainBalancedSampler,
    pseudo_labels,
)

LABELS = torch.tensor([0] * 9 + [1] * 4 + [5] * 6 + [7] * 3 + [-100] * 2)


def balanced(**options):
    return ClassBalancedSampler(LABELS, 6, 2, **options)


def disjoint(**options):
    return DisjointPseudoLabelSampler(LABELS, 4, **options)


def by_domain(**options):
    return DomainBalancedSampler(LABELS, 4, **options)


every = pytest.mark.parametrize("make", [balanced, disjoint, by_domain])


def batches(sampler, size):
    return torch.tensor(list(sampler)).split(size)


@every
def test_the_seed_and_the_epoch_decide(make):
    first, again, other, later = make(), make(), make(seed=1), make()
    later.set_epoch(1)
    assert list(first) == list(again)
    assert len({tuple(sampler) for sampler in (first, other, later)}) == 3
    assert len(list(later)) == len(later) == len(first)


@every
def test_processes_share_every_batch(make):
    whole = make()
    size = whole.batch_size
    shares = [batches(make(num_replicas=2, rank=rank), size // 2) for rank in (0, 1)]
    together = [torch.cat(parts) for parts in zip(*shares, strict=True)]
    assert torch.equal(torch.stack(together), torch.stack(batches(whole, size)))
    assert len(make(num_replicas=2)) == len(whole) // 2


@every
def test_it_goes_on_within_an_epoch(make):
    def loader():
        sampler = make()
        sampler.set_epoch(3)
        return ResumableLoader(list(range(24)), sampler.batch_size, sampler)

    begun, resumed, whole = loader(), loader(), [batch.tolist() for batch in loader()]
    iterator = iter(begun)
    next(iterator), next(iterator)
    resumed.load_state_dict(begun.state_dict())
    assert [batch.tolist() for batch in resumed] == whole[2:]
    assert len(whole) > 2 and len(list(resumed)) == len(whole)


def test_a_batch_holds_as_many_of_each_of_its_classes():
    sampler = balanced()
    for epoch in range(3):
        sampler.set_epoch(epoch)
        for batch in batches(sampler, 6):
            assert sorted(Counter(LABELS[batch].tolist()).values()) == [2, 2, 2]


def test_classes_come_equally_often_whatever_their_sizes():
    sampler, counts = ClassBalancedSampler([0] * 90 + [1] * 6 + [2] * 4, 10, 5), Counter()
    for epoch in range(60):
        sampler.set_epoch(epoch)
        counts.update(0 if place < 90 else 1 if place < 96 else 2 for place in sampler)
    # Two of three classes in each of 600 batches, five samples of each; three standard deviations of a binomial count.
    assert all(abs(count - 2000) < 3 * 5 * (600 * 2 / 9) ** 0.5 for count in counts.values()), counts


def test_no_sample_is_twice_in_a_batch_that_its_class_can_fill():
    sampler = ClassBalancedSampler([0] * 5 + [1] * 5 + [2] * 7, 6, 3)
    for epoch in range(20):
        sampler.set_epoch(epoch)
        assert all(len(set(batch.tolist())) == 6 for batch in batches(sampler, 6))


def test_a_class_is_used_up_before_it_repeats():
    sampler = ClassBalancedSampler([0] * 6 + [1] * 6, 4, 2)
    for batch_of_class in (0, 1):
        chosen = [place for place in sampler if (place >= 6) == bool(batch_of_class)]
        assert sorted(chosen) == list(range(6 * batch_of_class, 6 * batch_of_class + 6))


def test_a_class_that_is_too_small_repeats_within_a_batch():
    (batch,) = batches(ClassBalancedSampler([0, 1, 1, 1], 4, 2), 4)
    assert Counter(batch.tolist())[0] == 2


def test_every_share_of_a_batch_holds_as_many_of_each_domain():
    for rank in (0, 1):
        for share in batches(DomainBalancedSampler(LABELS, 8, num_replicas=2, rank=rank), 4):
            assert sorted(LABELS[share].tolist()) == [0, 1, 5, 7]


def test_no_batch_holds_a_pseudo_label_twice_and_no_sample_comes_twice():
    sampler = disjoint()
    for epoch in range(3):
        sampler.set_epoch(epoch)
        drawn = batches(sampler, 4)
        assert all(len(set(LABELS[batch].tolist())) == 4 for batch in drawn)
        assert len(set(torch.cat(drawn).tolist())) == len(sampler) == round(sampler.coverage * 24)


def test_equal_clusters_leave_nothing_out():
    assert DisjointPseudoLabelSampler(torch.arange(24) % 4, 4).coverage == 1


def test_pseudo_labels_are_nearest_centres():
    features = torch.cat([torch.randn(20, 3, generator=torch.Generator().manual_seed(k)) + 30 * k for k in range(3)])
    labels = pseudo_labels(features, 3, seed=4).view(3, 20)
    assert all(len(set(group)) == 1 for group in labels.tolist()) and len(set(labels[:, 0].tolist())) == 3


@pytest.mark.parametrize(
    "dtype, factor, offset", [(torch.float16, 3e3, 0), (torch.float32, 1, 1e5), (torch.float32, 1e25, 0)]
)
def test_pseudo_labels_do_not_depend_on_units(dtype, factor, offset):
    features = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features[:20] += 8
    moved = (factor * features + offset).to(dtype)
    assert torch.equal(pseudo_labels(moved, 2), pseudo_labels(moved.double() / factor - offset, 2))


class Work(TorchDispatchMode):
    """Counts the numbers that operations give."""

    numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        self.numbers += sum(part.numel() for part in tree_leaves(result) if isinstance(part, torch.Tensor))
        return result


@pytest.mark.parametrize(
    ("plan", "most"),
    [
        (lambda labels: ClassBalancedSampler(labels, 50, 2).plan(), 150),
        (lambda labels: DisjointPseudoLabelSampler(labels, 50).plan(), 100),
    ],
    ids=["classes", "pseudo-labels"],
)
def test_not_every_sample_is_compared_with_every_class(plan, most):
    labels = torch.arange(2000) % 100
    with Work() as work:
        plan(labels)
    assert work.numbers < most * len(labels)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: ClassBalancedSampler(torch.eye(4), 4, 2),
            "class_balanced_sampler: target of shape [4, 4] came; give one number for each sample, [n].",
        ),
        (
            lambda: DisjointPseudoLabelSampler(torch.eye(4), 4),
            "disjoint_pseudo_label_sampler: pseudo_labels of shape [4, 4] came; give one number for each sample, [n].",
        ),
        (
            lambda: ClassBalancedSampler(LABELS, 7, 2),
            "class_balanced_sampler: batch_size=7 came with samples_per_class=2; give a multiple of it.",
        ),
        (
            lambda: ClassBalancedSampler(LABELS, 12, 2),
            "class_balanced_sampler: batches of 12 with 2 samples of a class hold 6 classes, and 4 came; give smaller "
            "batches, or more samples of a class.",
        ),
        (
            lambda: ClassBalancedSampler(LABELS, 6, 2, num_replicas=4),
            "class_balanced_sampler: batch_size=6 came for process 0 of 4; give a multiple of the number of processes, "
            "and ranks from 0 on.",
        ),
        (
            lambda: DomainBalancedSampler(LABELS, 6),
            "domain_balanced_sampler: batch_size=6 came for 4 domains; give a multiple of their number.",
        ),
        (
            lambda: DisjointPseudoLabelSampler([0, 1, 1], 3),
            "disjoint_pseudo_label_sampler: batches of 3 came for 2 pseudo-labels; give twice as many pseudo-labels, "
            "or smaller batches.",
        ),
        (
            lambda: pseudo_labels(torch.zeros(3, 2), 4),
            "pseudo_labels: features of shape [3, 2] came for 4 clusters; give vectors [n, D] of at least as many "
            "samples.",
        ),
    ],
    ids=[
        "one-hot target",
        "one-hot pseudo-labels",
        "no multiple",
        "few classes",
        "processes",
        "uneven domains",
        "few labels",
        "few samples",
    ],
)
def test_what_does_not_fit_is_refused(make, sentence):
    with pytest.raises(ValueError) as refusal:
        make()
    assert str(refusal.value) == sentence


def test_views_of_planned_batches_go_on_within_an_epoch():
    samples = ImageDataset(torch.zeros(24, 1, 4, 4), LABELS.clamp(min=0))

    def sampler():
        made = ViewSampler(SeededViews(samples, RandomShift(1), views=3), 1, 0, order=disjoint())
        made.set_epoch(4)
        return made

    whole, rest = list(sampler()), sampler()
    rest.leave_out(samples=4, epoch=4)
    planned = disjoint()
    planned.set_epoch(4)
    # The second view, in the planned order.
    assert [position - 24 for position in whole] == list(planned) and len(sampler()) == len(whole)
    assert list(rest) == whole[4:]
