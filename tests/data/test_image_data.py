import numpy as np
import pytest
import torch

from lightning_losses.data import Digits, MNIST5k
from lightning_losses.data.seeded_views import RandomShift
from lightning_losses.samplers import pseudo_labels


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


def test_batches_are_planned_where_a_setting_asks_for_it(caplog):
    balanced = Digits(batch_size=20, samples_per_class=5)
    balanced.setup()
    for batch in list(balanced.train_dataloader())[:3]:
        assert batch["target"].bincount().tolist().count(5) == 4
    disjoint = Digits(batch_size=16, pseudo_labels=40, augmentation=RandomShift(1), views=2)
    disjoint.setup()
    labels = pseudo_labels(disjoint.train.inputs.flatten(1), 40)
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        loader = disjoint.train_dataloader()
    (said,) = caplog.messages
    assert said == f"digits: {100 * loader.sampler.order.coverage:.1f} % of the training samples come in an epoch."
    loader.sampler.set_epoch(1)
    for batch in list(loader)[:3]:
        assert len(set(labels[batch["index"]].tolist())) == 16
        assert (batch["view_index"] >= len(disjoint.train)).all()


def test_twice_as_many_pseudo_labels_cover_the_digits_and_fewer_pairs_are_of_one_class():
    few, many = (Digits(batch_size=32, pseudo_labels=labels) for labels in (32, 64))
    few.setup(), many.setup()
    assert few.planned(32, 1, 0).coverage < 0.3 < 0.9 < many.planned(32, 1, 0).coverage

    def alike(sampler):
        batches = many.train.target[torch.tensor(list(sampler))[:960]].view(30, 32)
        return (batches[:, None] == batches[:, :, None]).double().mean()

    assert (
        alike(many.planned(32, 1, 0))
        < alike(torch.randperm(1079, generator=torch.Generator().manual_seed(0)).tolist()) - 0.005
    )


def test_unseen_classes_are_tested_on_alone():
    data = Digits(unseen_classes=4, split_seed=3)
    data.setup()
    seen, tested = (set(part.target.tolist()) for part in (data.train, data.test))
    assert seen == set(data.val.target.tolist()) == set(range(10)) - tested
    assert len(tested) == 4 and len(data.test) == sum(int(c) in tested for c in data.read().target)
    # The splits of the seen classes are what they are without.
    plain = Digits(split_seed=3)
    plain.setup()
    assert len(data.train) == sum(int(c) in seen for c in plain.train.target)
    other = Digits(unseen_classes=4, split_seed=4)
    other.setup()
    assert set(other.test.target.tolist()) != tested


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"samples_per_class": 4, "pseudo_labels": 9},
            "digits: samples_per_class=4 came with pseudo_labels=9; give one of them, which decide what a batch holds.",
        ),
        (
            {"unseen_classes": 9},
            "digits: unseen_classes=9 came with 10 classes and long_tail=1; leave two classes to train on, and "
            "long_tail=1.",
        ),
        (
            {"pairs": True},
            "digits: pairs=True came with one view, whose next is itself; give an augmentation, and two views or more.",
        ),
    ],
    ids=["two plans", "few classes", "no second view"],
)
def test_settings_that_do_not_go_together_are_refused(settings, sentence):
    with pytest.raises(ValueError) as refusal:
        Digits(**settings)
    assert str(refusal.value) == sentence
