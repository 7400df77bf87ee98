"""Data in domains: what is left out, what batches hold, and how the domains differ."""

import pytest
import torch

from lightning_losses.data import ColouredDigits, MNIST1DDomains, RotatedDigits
from lightning_losses.data.rotated_digits import rotated


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def ready(folder):
    def ready(kind, **settings):
        data = kind(folder=folder, **settings)
        data.setup()
        return data

    return ready


THREE = {"angles": [0, 30, 60], "num_domains": 2, "batch_size": 20}


def test_the_domain_that_is_left_out_is_the_test_split(ready):
    first, last = (ready(RotatedDigits, test_domain=left_out, **THREE) for left_out in (0, 2))
    for data in (first, last):
        assert data.test.domain.unique().tolist() == [2]
        assert data.train.domain.unique().tolist() == data.val.domain.unique().tolist() == [0, 1]
        assert len(data.train) + len(data.val) + len(data.test) == 5000
        strata = (10 * data.val.domain + data.val.target).bincount()
        # A fifth of each class of each domain, to within a sample.
        assert strata.min() >= 32 and strata.max() <= 35
    # The first domain of training is the upright one where that is not left out.
    assert last.train.domain.bincount().tolist() != [0, 0] and first.fingerprint() != last.fingerprint()


def test_batches_hold_as_many_samples_of_each_domain(ready):
    data = ready(RotatedDigits, test_domain=1, **THREE)
    for batch in list(data.train_dataloader())[:4]:
        assert set(batch) == {"inputs", "target", "index", "domain"}
        assert batch["domain"].dtype == torch.int64 and batch["domain"].bincount().tolist() == [10, 10]
        assert torch.equal(data.train.domain[batch["index"]], batch["domain"])
    # Each of two processes too.
    share = data.train.domain[list(data.planned(20, 2, 1))[:10]]
    assert share.bincount().tolist() == [5, 5]


def test_a_quarter_turn_is_exact_and_three_are_the_other_way():
    images = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotated(images, 90), images.rot90(dims=(2, 3)))
    torch.testing.assert_close(rotated(rotated(images, 270), 90), images)


def test_colours_agree_with_labels_as_often_as_they_shall(ready):
    data = ready(ColouredDigits)
    for part, shares in ((data.train, [0.1, 0.2]), (data.test, [0.9])):
        # The channel that is not constant has the digit.
        colour = part.inputs.flatten(2).std(dim=-1).argmax(dim=-1)
        for domain, share in zip(part.domain.unique(), shares, strict=True):
            members = part.domain == domain
            disagrees = (colour != part.target)[members].double().mean()
            assert abs(disagrees - share) < 4 * (share * (1 - share) / members.sum()) ** 0.5


def test_labels_are_flipped_in_all_domains_alike(folder):
    right, flipped = (ColouredDigits(folder=folder, flipped=share).read_domains() for share in (0.0, 0.25))
    assert (right.domain == flipped.domain).all()
    assert abs(right.pixels.sum(axis=1) - flipped.pixels.sum(axis=1)).max() == 0
    for domain in range(3):
        assert abs((right.target != flipped.target)[right.domain == domain].mean() - 0.25) < 0.05


def test_sequences_are_moved_domain_by_domain(ready):
    options = {"rows": 120, "num_domains": 1, "batch_size": 10, "scales": [1, 2], "noises": [0, 0], "test_domain": 1}
    plain, moved = (ready(MNIST1DDomains, shifts=shifts, **options) for shifts in ([0, 0], [0, 3]))
    assert torch.equal(plain.train.inputs, moved.train.inputs)
    torch.testing.assert_close(moved.test.inputs, plain.test.inputs.roll(3, dims=-1))
    assert plain.test.inputs.std() > 1.5 * plain.train.inputs.std()


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        (RotatedDigits, {"test_domain": 6}, "rotated_digits: test_domain=6 came; give 0 to 5."),
        (RotatedDigits, {"angles": [0, 30], "test_domain": 0}, "num_domains=5 came with 2 domains"),
        (RotatedDigits, {"batch_size": 64}, "batch_size=64 came with num_domains=5; give a multiple"),
        (RotatedDigits, {"unseen_classes": 2}, "unseen_classes came; data in domains can't have it."),
        (ColouredDigits, {"disagreement": [0.1, 0.2, 1.9]}, "disagreement=1.9 came; give a number at least 0 and at"),
        (ColouredDigits, {"disagreement": 0.1}, "disagreement=0.1 came; give a list of numbers, at least one."),
        (RotatedDigits, {"angles": [0, float("nan")]}, "angles=nan came; give a number."),
        (RotatedDigits, {"angles": [0]}, "num_domains=5 came with 1 domains; give two domains or more"),
        (MNIST1DDomains, {"noises": [0, 0, 0, -1]}, "noises=-1 came; give a number at least 0."),
        (MNIST1DDomains, {"shifts": [0, 4, 8, 0.5]}, "shifts=0.5 came; give whole numbers of positions."),
        (MNIST1DDomains, {"shifts": [0, 1]}, "2 shifts came with 4 scales and 4 noises"),
    ],
)
def test_what_does_not_fit_is_refused(kind, settings, sentence):
    with pytest.raises(ValueError) as refusal:
        kind(**settings)
    assert sentence in str(refusal.value)


def test_a_split_or_a_domain_without_a_sample_is_refused(ready):
    with pytest.raises(
        ValueError, match=r"^mnist1d_domains: 3 samples of 4 domains came with val_fraction=0\.2, which"
    ):
        ready(MNIST1DDomains, rows=3)
    # Of 11 domains, 10 rows can't hold each.
    data = ready(
        MNIST1DDomains,
        shifts=[*range(12)],
        scales=[1] * 12,
        noises=[0] * 12,
        num_domains=11,
        batch_size=99,
        train_rows=10,
    )
    with pytest.raises(
        ValueError, match=r"^mnist1d_domains: no training sample of domain \d+ is left of 10; keep more"
    ):
        data.train_dataloader()
