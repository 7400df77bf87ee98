"""Noise in the training labels, and data that overlap by themselves."""

import math
import re

import pytest
import torch

from lightning_losses.data import Digits
from lightning_losses.data.label_noise import transition_matrix, with_label_noise
from lightning_losses.data.overlapping_gaussians import OverlappingGaussians


def pixels(inputs):
    return inputs.numpy().tobytes()


def ready(data):
    data.setup()
    return data


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric", "instance"])
def test_exactly_that_share_of_training_labels_is_wrong_and_no_other(kind):
    clean, noisy = ready(Digits()), ready(Digits(label_noise=0.2, noise_kind=kind))
    wrong = clean.train.target != noisy.train.target
    assert int(wrong.sum()) == round(0.2 * len(clean.train))
    assert bool((noisy.train.target[wrong] == (clean.train.target[wrong] + 1) % 10).all()) == (kind == "asymmetric")
    assert torch.equal(clean.val.target, noisy.val.target) and torch.equal(clean.test.target, noisy.test.target)
    assert torch.equal(clean.train.inputs, noisy.train.inputs)
    assert clean.fingerprint() != noisy.fingerprint()


def test_the_split_seed_fixes_the_noise_and_the_seed_does_not():
    labels = [ready(Digits(label_noise=0.2, seed=seed)).train.target for seed in (0, 1)]
    assert torch.equal(*labels)
    target = torch.zeros(1000, dtype=torch.long)
    first, second = (with_label_noise(target, 10, share=0.5, seed=seed) for seed in (0, 1))
    assert not torch.equal(first, second)


def test_fewer_rows_are_among_more_and_keep_their_inputs_and_labels():
    few, more, whole = (ready(Digits(label_noise=0.2, train_rows=rows)).train for rows in (60, 400, None))
    assert (len(few), len(more), len(whole)) == (60, 400, 1079)
    for smaller, larger in ((few, more), (more, whole)):
        labels = dict(zip(map(pixels, larger.inputs), larger.target.tolist(), strict=True))
        assert [labels[pixels(inputs)] for inputs in smaller.inputs] == smaller.target.tolist()
    clean = ready(Digits(train_rows=60)).train
    assert torch.bincount(clean.target).tolist() == [6] * 10
    # Of 60 rows, a binomial's three standard deviations about a fifth.
    assert 3 <= int((few.target != clean.target).sum()) <= 21
    few_data, whole_data = ready(Digits(train_rows=60)), ready(Digits())
    assert torch.equal(few_data.test.inputs, whole_data.test.inputs)
    assert few_data.fingerprint() != whole_data.fingerprint()


def test_more_rows_than_there_are_is_refused():
    with pytest.raises(ValueError, match="train_rows=1080 came; the training split has 1079 samples"):
        ready(Digits(train_rows=1080))
    with pytest.raises(ValueError, match="train_rows=0 came"):
        Digits(train_rows=0)


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric", "instance"])
def test_samples_without_a_label_stay_without(kind):
    target = torch.arange(30) % 3
    target[::2] = -100
    noisy = with_label_noise(target, 3, share=0.4, seed=0, kind=kind, features=torch.randn(30, 2))
    assert bool((noisy[::2] == -100).all()) and int((noisy != target).sum()) == 6


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: with_label_noise(torch.tensor([0, 3]), 3, share=0.5, seed=0),
            "with_label_noise: target 3 came with 3",
        ),
        (lambda: with_label_noise(torch.tensor([0]), 3, share=1.5, seed=0), "with_label_noise: share=1.5 came; give a"),
        (lambda: with_label_noise(torch.tensor([0]), 1, share=0.5, seed=0), "with_label_noise: num_classes=1 came;"),
        (lambda: with_label_noise(torch.tensor([0]), 3, share=1, seed=0, kind="pair"), "with_label_noise: kind='pair'"),
        (lambda: transition_matrix(torch.tensor([0]), torch.tensor([3]), 3), "transition_matrix: target 3 came with 3"),
        (lambda: transition_matrix(torch.tensor([3]), torch.tensor([0]), 3), "transition_matrix: true_target 3 came"),
    ],
)
def test_labels_and_settings_out_of_range_are_refused(call, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        call()


def test_every_other_class_is_as_likely():
    noisy = with_label_noise(torch.full((9000,), 4), 10, share=1.0, seed=0)
    counts = torch.bincount(noisy, minlength=10)
    assert counts[4] == 0
    # Each count is binomial(9000, 1/9): five standard deviations.
    others = counts[torch.arange(10) != 4].double()
    assert bool(((others - 1000).abs() < 5 * math.sqrt(9000 / 9 * 8 / 9)).all())


def test_instance_noise_draws_the_other_class_by_the_features():
    target = torch.arange(9000) % 3
    place = torch.arange(9000) // 3 % 2

    def matrices(features):
        """The transitions of the samples at either place."""
        noisy = with_label_noise(target, 3, share=1.0, seed=0, kind="instance", features=features)
        return [transition_matrix(target[place == each], noisy[place == each], 3) for each in (0, 1)]

    # Without any feature both other classes are as likely: binomial(1500, 1/2), five standard deviations.
    without = (1 - torch.eye(3)) / 2
    for matrix in matrices(torch.zeros(9000, 2)):
        assert bool(((matrix - without).abs() <= 5 * 0.5 / math.sqrt(1500) * (without > 0)).all())
    # Equal samples have equal shares, and unlike ones others.
    features = torch.eye(2)[place]
    first, second = matrices(features)
    assert bool(((first - second).abs().amax(dim=1) > 0.1).any()) and bool(((first > 0) == (without > 0)).all())
    # Of large features the likeliest class takes all.
    large = torch.stack(matrices(1e4 * features))
    assert sorted(set(large.flatten().tolist())) == [0.0, 1.0] and not torch.equal(large[0], large[1])


def test_the_achieved_share_and_the_transitions_are_those_of_the_rows_that_are_left():
    data = Digits(label_noise=0.3, noise_kind="asymmetric", long_tail=5, train_rows=300, labelled_rows=250)
    matrix, share = data.transition_matrix(), data.wrong_label_share()
    clean = ready(Digits(long_tail=5, train_rows=300)).train
    assert torch.equal(data.true_target, clean.target) and torch.equal(data.train.inputs, clean.inputs)
    pairs = [(y, s) for y, s in zip(clean.target.tolist(), data.train.target.tolist(), strict=True) if s >= 0]
    assert len(pairs) == 250 and 0.2 < share == pytest.approx(sum(y != s for y, s in pairs) / 250)
    for y in range(10):
        of_class = [s for other, s in pairs if other == y]
        expected = [of_class.count(s) / len(of_class) for s in range(10)]
        assert matrix[y].tolist() == pytest.approx(expected)


def test_the_matrices_are_those_of_cleanlab():
    """Of cleanlab 2.9.0: a noise matrix and the labels that its generator drew by it; then an inverse noise matrix."""
    # Its columns are the true classes. It rounds the counts of a column to whole samples, one up and one down.
    noise_matrix = torch.tensor(
        [
            [0.5617884043156559, 0.06566610115391554, 0.30397355368948586],
            [0.18044154898229847, 0.8865308940299922, 0.044345744656162006],
            [0.25777004670204556, 0.04780300481609226, 0.6516807016543521],
        ],
        dtype=torch.float64,
    )
    drawn = "020010200012200000000220010211111111111111101111110222002222"
    counts = torch.tensor([30, 20, 10])
    true, labels = torch.arange(3).repeat_interleave(counts), torch.tensor(list(map(int, drawn)))
    off = (transition_matrix(true, labels, 3) - noise_matrix.T) * counts.unsqueeze(1)
    assert float(off.abs().max()) < 1.5
    # compute_inv_noise_matrix: the share of the true classes among the samples of each label, a column.
    true, labels = torch.tensor([0] * 6 + [1] * 3 + [2] * 3), torch.tensor([0, 0, 0, 0, 1, 2, 1, 1, 0, 2, 2, 1])
    inverse = torch.tensor([[0.8, 0.25, 1 / 3], [0.2, 0.5, 0.0], [0.0, 0.25, 2 / 3]], dtype=torch.float64)
    torch.testing.assert_close(transition_matrix(labels, true, 3).T, inverse, rtol=1e-15, atol=0)


@pytest.mark.parametrize("distance", [0.25, 0.1, 0.05])
def test_the_best_classifier_of_gaussians_is_as_good_as_theory_says(distance):
    data = ready(OverlappingGaussians(distance=distance, samples=20_000))
    # Inputs are centred by channel, so that the boundary lies at 0.
    predicted = (data.test.inputs.sum(dim=(1, 2, 3)) > 0).long()
    accuracy = (predicted == data.test.target).double().mean().item()
    expected = 0.5 * (1 + math.erf(distance * math.sqrt(300) / 2 / math.sqrt(2)))
    # Five standard deviations of 4000 samples.
    assert abs(accuracy - expected) < 5 * math.sqrt(expected * (1 - expected) / 4000)


def test_a_seed_draws_the_gaussians():
    first, second = (ready(OverlappingGaussians(samples=50, seed=seed)) for seed in (0, 1))
    assert first.fingerprint() == ready(OverlappingGaussians(samples=50, seed=0)).fingerprint() != second.fingerprint()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Digits(label_noise=1.5),
        lambda: Digits(label_noise=-0.1),
        lambda: OverlappingGaussians(distance=0),
        lambda: OverlappingGaussians(samples=5),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="came; give a (whole )?number"):
        make()


def test_instance_noise_without_features_is_refused():
    for features, came in ((None, "no features"), (torch.zeros(2, 4), "features of 2 samples")):
        with pytest.raises(ValueError) as raised:
            with_label_noise(torch.zeros(3, dtype=torch.long), 2, share=0.5, seed=0, kind="instance", features=features)
        assert str(raised.value) == (
            f"with_label_noise: {came} came for 3 labels; instance-dependent noise needs the features of each sample."
        )


def test_few_labels_are_among_more_and_the_other_samples_stay():
    few, more, whole = (ready(Digits(labelled_rows=rows, train_rows=500)).train for rows in (50, 200, None))
    for fewer, larger, count in ((few, more, 50), (more, whole, 200)):
        labelled = fewer.target >= 0
        assert int(labelled.sum()) == count and (fewer.target[~labelled] == -100).all()
        assert torch.equal(fewer.target[labelled], larger.target[labelled]) and torch.equal(fewer.inputs, whole.inputs)
    assert torch.bincount(few.target[few.target >= 0]).tolist() == [5] * 10
    with pytest.raises(ValueError, match="labelled_rows=501 came; the training split has 500 samples"):
        ready(Digits(labelled_rows=501, train_rows=500))
