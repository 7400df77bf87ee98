import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.data.long_tail import long_tailed
from lightning_losses.data.splits import stratified_order, stratified_split


@given(st.lists(st.integers(5, 30), min_size=2, max_size=5), st.integers(0, 1000))
def test_every_sample_is_in_one_part_and_every_class_has_its_share(counts, seed):
    target = np.random.RandomState(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    split = stratified_split(target, val_fraction=0.2, test_fraction=0.3, seed=seed)
    assert sorted(np.concatenate(split)) == list(range(len(target)))
    for label, count in enumerate(counts):
        assert (target[split.val] == label).sum() == round(0.2 * count)
        assert (target[split.test] == label).sum() == round(0.3 * count)


def test_the_seed_decides_the_split():
    target = np.repeat([0, 1], 50)
    first, again, other = (
        stratified_split(target, val_fraction=0.2, test_fraction=0.2, seed=seed) for seed in (0, 0, 1)
    )
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first.test != other.test).any()
    # Frozen: another split would make every kept network and every reported number incomparable.
    assert first.test[:6].tolist() == [0, 3, 9, 19, 21, 36]


@pytest.mark.parametrize(("val", "test"), [(0.0, 0.2), (0.2, 0.0), (0.5, 0.5), (-0.1, 0.2)])
def test_fractions_that_leave_a_part_empty_are_refused(val, test):
    with pytest.raises(ValueError, match="stratified_split: val_fraction"):
        stratified_split(np.repeat([0, 1], 10), val_fraction=val, test_fraction=test, seed=0)


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="samples are left"):
        stratified_split(np.array([0, 1]), val_fraction=0.2, test_fraction=0.2, seed=0)


@given(st.lists(st.integers(5, 30), min_size=2, max_size=5), st.integers(0, 1000))
def test_every_beginning_of_the_order_has_the_classes_shares(counts, seed):
    target = np.random.RandomState(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    order = stratified_order(target, seed)
    assert sorted(order) == list(range(len(target)))
    for rows in range(1, len(target) + 1):
        for label, count in enumerate(counts):
            # Each class is off by half a sample at most, and so is the sum, by half a sample a class.
            share = count / len(target)
            allowed = 0.5 + share * len(counts) / 2
            assert abs((target[order[:rows]] == label).sum() - share * rows) <= allowed + 1e-9


def test_equal_classes_take_turns():
    target = np.repeat(np.arange(10), 30)
    assert (np.bincount(target[stratified_order(target, 3)[:60]]) == 6).all()
    assert (stratified_order(target, 3) != stratified_order(target, 4)).any()


def test_a_long_tail_of_a_class_without_samples_is_refused():
    with pytest.raises(ValueError) as raised:
        long_tailed(np.array([0, 0, 2]), 3, ratio=10, seed=0)
    assert str(raised.value) == "long_tailed: num_classes=3 came, and class 1 has no sample; give some of each."
