import gzip
import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_losses.data.yeast import Yeast


@pytest.fixture
def river(tmp_path, monkeypatch):
    """A package with a file of the form of river's, of 20 rows."""
    file = tmp_path / "datasets" / "yeast.csv.gz"
    file.parent.mkdir()
    random = np.random.RandomState(0)
    rows = np.concatenate([random.standard_normal((20, 103)).round(6), random.randint(0, 2, (20, 14))], axis=1)
    with gzip.open(file, "wt") as lines:
        lines.write(",".join(f"column{n}" for n in range(117)) + "\n")
        lines.writelines(",".join(f"{value:g}" for value in row) + "\n" for row in rows)
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    return file, rows


def test_it_reads_splits_and_standardises(river):
    _, rows = river
    data = Yeast(batch_size=4)
    data.setup()
    assert [len(data.train), len(data.val), len(data.test)] == [12, 4, 4]
    torch.testing.assert_close(data.train.inputs.mean(dim=0), torch.zeros(103), atol=1e-5, rtol=0)
    labels = torch.cat([data.train.target, data.val.target, data.test.target])
    assert sorted(labels.tolist()) == sorted(rows[:, 103:].tolist())
    batch = next(iter(data.train_dataloader()))
    assert set(batch) == {"inputs", "multi_hot", "index"}
    assert torch.equal(data.train.target[batch["index"]], batch["multi_hot"])
    assert data.fingerprint() == Yeast().fingerprint() != Yeast(split_seed=1).fingerprint()


def test_what_is_missing_or_wrong_is_told(river, monkeypatch):
    file, _ = river
    with pytest.raises(ValueError, match=r"^yeast: num_features=103 and num_classes=3 came; it has 103"):
        Yeast(num_classes=3)
    file.unlink()
    with pytest.raises(ValueError) as error:
        Yeast().setup()
    told = "the river that is installed has no datasets/yeast.csv.gz; install another."
    assert str(error.value) == f"yeast: {told}"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError) as error:
        Yeast().setup()
    told = "river is not installed; pip install 'lightning-losses[multi_label]' brings it."
    assert str(error.value) == f"yeast: {told}"
