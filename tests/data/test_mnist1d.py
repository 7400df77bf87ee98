"""MNIST-1D: what is drawn, what is kept of it, and what its settings change."""

import random

import numpy as np
import pytest
import torch

from lightning_losses.data import MNIST1D, mnist1d
from lightning_losses.networks.conv1d import Conv1D

SMALL = {"rows": 100, "val_rows": 50, "test_rows": 50}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def ready(folder):
    def ready(**settings):
        data = MNIST1D(folder=folder, **{**SMALL, **settings})
        data.setup()
        return data

    return ready


def test_it_is_the_packages_draw_and_leaves_the_global_generators_alone(ready):
    from mnist1d.data import get_dataset_args, make_dataset

    random.seed(5)
    np.random.seed(5)
    before = random.random(), np.random.rand()
    random.seed(5)
    np.random.seed(5)
    data = ready(split_seed=7)
    assert (random.random(), np.random.rand()) == before
    arguments = get_dataset_args()
    arguments.num_samples, arguments.train_split, arguments.seed = 200, 1.0, 1007
    drawn = make_dataset(arguments)
    ours = torch.cat([part.inputs for part in (data.train, data.val, data.test)]).flatten(1)
    # Up to the order and one shift and scale.
    ranks = [np.argsort(np.argsort(np.sort(values.ravel()))) for values in (ours.numpy(), drawn["x"])]
    assert ours.shape == (200, 40) and np.array_equal(*ranks)
    apart = np.sort(ours.numpy().ravel()), np.sort(drawn["x"].ravel())
    assert abs(np.corrcoef(*apart)[0, 1] - 1) < 1e-6
    assert abs(data.train.inputs.mean()) < 1e-5 and abs(data.train.inputs.std() - 1) < 1e-3
    assert [len(part) for part in (data.train, data.val, data.test)] == [100, 50, 50]
    assert torch.bincount(data.train.target).tolist() == [10] * 10


def test_a_draw_is_kept_and_a_damaged_one_is_drawn_again(ready, monkeypatch):
    data = ready(split_seed=1)
    assert data.fingerprint() != ready(split_seed=2).fingerprint()
    draw = mnist1d._drawn
    monkeypatch.setattr(mnist1d, "_drawn", lambda *_: pytest.fail("drawn again"))
    assert ready(split_seed=1).fingerprint() == data.fingerprint()
    data.file.write_bytes(data.file.read_bytes()[:500])
    monkeypatch.setattr(mnist1d, "_drawn", draw)
    assert ready(split_seed=1).fingerprint() == data.fingerprint()


def test_another_domain_changes_test_alone(ready):
    plain, moved = ready(), ready(shift=3, scale=2.0)
    assert torch.equal(plain.train.inputs, moved.train.inputs) and torch.equal(plain.val.inputs, moved.val.inputs)
    assert torch.allclose(moved.test.inputs[..., 3:], 2 * plain.test.inputs[..., :-3])
    noisy = ready(noise=0.5)
    added = noisy.test.inputs - plain.test.inputs
    assert abs(added.std() - 0.5) < 0.05 and torch.equal(noisy.test.inputs, ready(noise=0.5).test.inputs)


def test_a_long_tail_and_noise_to_the_next_class_or_by_the_inputs(ready):
    tail = ready(long_tail=10.0)
    counts = torch.bincount(tail.train.target, minlength=10)
    assert sorted(counts.tolist()) == [1, 1, 2, 2, 3, 4, 5, 6, 8, 10]
    assert counts.tolist() != ready(long_tail=10.0, split_seed=3).train.target.bincount(minlength=10).tolist()
    assert torch.bincount(tail.test.target).tolist() == [5] * 10
    with pytest.raises(ValueError, match="train_rows=43 came; the training split has 42 samples"):
        ready(long_tail=10.0, train_rows=43)
    clean, noisy = ready().train.target, ready(label_noise=0.3, noise_kind="asymmetric").train.target
    wrong = clean != noisy
    assert int(wrong.sum()) == 30 and torch.equal(noisy[wrong], (clean[wrong] + 1) % 10)
    by_inputs = ready(label_noise=0.3, noise_kind="instance")
    wrong = by_inputs.train.target != clean
    assert int(wrong.sum()) == 30 and not torch.equal(by_inputs.train.target[wrong], (clean[wrong] + 1) % 10)
    assert by_inputs.wrong_label_share() == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": 0}, "mnist1d: rows=0 came"),
        ({"long_tail": 0.5}, "mnist1d: long_tail=0.5 came"),
        ({"scale": 0.0}, "mnist1d: scale=0.0 came"),
        ({"noise_kind": "pair"}, "mnist1d: noise_kind='pair' came"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        MNIST1D(**settings)


@pytest.mark.parametrize("length", [8, 9, 10, 11, 40])
def test_conv1d_takes_any_length(length):
    assert Conv1D(num_classes=3, in_chans=2, width=4, length=length)(torch.zeros(2, 2, length)).shape == (2, 3)
