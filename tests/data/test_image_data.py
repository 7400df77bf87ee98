import numpy as np
import pytest
import torch

from lightning_losses.data import Digits, MNIST5k


@pytest.fixture(scope="module")
def digits():
    data = Digits(batch_size=50, seed=3)
    data.setup()
    return data


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    data = MNIST5k(folder=tmp_path_factory.mktemp("data"))
    data.prepare_data()
    data.setup()
    return data


def test_digits_are_scikit_learns(digits):
    from sklearn.datasets import load_digits

    images, target = load_digits(return_X_y=True)
    everything = torch.cat([part.inputs for part in (digits.train, digits.val, digits.test)])
    assert everything.shape == (1797, 1, 8, 8)
    # Standardised by the training split: the same images up to one shift and one scale.
    seen = digits.train.inputs
    assert abs(seen.mean()) < 1e-5 and abs(seen.std() - 1) < 1e-3
    counts = sum(torch.bincount(part.target) for part in (digits.train, digits.val, digits.test))
    assert counts.tolist() == np.bincount(target).tolist()
    assert torch.unique(everything).numel() == len(np.unique(images))


def test_mnist5k_is_balanced_and_split_3000_1000_1000(mnist):
    assert [len(part) for part in (mnist.train, mnist.val, mnist.test)] == [3000, 1000, 1000]
    for part, each in ((mnist.train, 300), (mnist.val, 100), (mnist.test, 100)):
        assert torch.bincount(part.target).tolist() == [each] * 10
        assert part.inputs.shape[1:] == (1, 28, 28)
    assert len(torch.unique(torch.cat([mnist.train.inputs, mnist.test.inputs]).flatten(1), dim=0)) > 3990


def test_mnist5k_is_read_from_its_cache_and_a_damaged_cache_is_replaced(mnist, monkeypatch):
    from lightning_losses.data import mnist5k

    parse = mnist5k._parse
    monkeypatch.setattr(mnist5k, "_parse", lambda path: pytest.fail("parsed again"))
    again = MNIST5k(folder=mnist.folder)
    assert again.fingerprint() == mnist.fingerprint()
    mnist.file.write_bytes(mnist.file.read_bytes()[:1000])
    monkeypatch.setattr(mnist5k, "_parse", parse)
    repaired = MNIST5k(folder=mnist.folder)
    assert repaired.fingerprint() == mnist.fingerprint()
    assert [path.name for path in mnist.folder.iterdir()] == ["mnist5k.npz"]


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTNING_LOSSES_CACHE", str(tmp_path / "own"))
    assert MNIST5k().folder == tmp_path / "own" / "data"
    monkeypatch.delenv("LIGHTNING_LOSSES_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert MNIST5k().folder == tmp_path / "lightning_losses" / "data"


def test_a_batch_has_the_glossarys_names(digits):
    batch = next(iter(digits.train_dataloader()))
    assert set(batch) == {"inputs", "target", "index"}
    assert torch.equal(digits.train.inputs[batch["index"]], batch["inputs"])
    assert torch.equal(digits.train.target[batch["index"]], batch["target"])
    assert {name: value.ndim for name, value in digits.train[5].items()} == {"inputs": 3, "target": 0, "index": 0}


def _order(data, epoch):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return torch.cat([batch["index"] for batch in loader]).tolist()


def test_the_order_depends_on_seed_and_epoch_alone(digits):
    torch.manual_seed(1)
    first = _order(digits, 0)
    torch.manual_seed(2)
    assert _order(digits, 0) == first
    assert sorted(first) == list(range(len(digits.train)))
    other = Digits(batch_size=50, seed=4)
    other.setup()
    assert _order(digits, 1) != first and _order(other, 0) != first


def test_validation_and_test_are_whole_and_in_order(digits):
    for loader, part in ((digits.val_dataloader(), digits.val), (digits.test_dataloader(), digits.test)):
        assert torch.cat([batch["index"] for batch in loader]).tolist() == list(range(len(part)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "digits: batch_size=0 came"),
        ({"num_classes": 7}, "digits: num_classes=7 came; it has 10"),
        ({"input_shape": [1, 28, 28]}, "digits: input_shape"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Digits(**options)
