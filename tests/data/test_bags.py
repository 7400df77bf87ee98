import pytest
import torch

from lightning_losses.data.bags import BaggedSamples, BagSampler, bags_of
from lightning_losses.data.diabetes import Diabetes


def ready(**options):
    data = Diabetes(**options)
    data.setup()
    return data


def test_every_sample_has_the_mean_target_of_its_bag():
    plain, bagged = ready(), ready(bag_size=4, batch_size=32)
    place = {row.numpy().tobytes(): number for number, row in enumerate(plain.train.inputs)}
    batch = bagged.train.__getitems__(list(range(len(bagged.train))))
    # 222 samples: two fill no bag.
    assert batch["spans"].bincount().tolist() == [4] * 55
    own = plain.train.target[[place[row.numpy().tobytes()] for row in batch["inputs"]]]
    for bag in range(55):
        torch.testing.assert_close(batch["target"][batch["spans"] == bag], own[batch["spans"] == bag].mean().expand(4))
    assert torch.unique(batch["target"]).numel() > 50
    # Its bags are drawn; the evaluated samples are alone.
    assert bagged.fingerprint() != ready(bag_size=4, batch_size=32, split_seed=1).fingerprint() != plain.fingerprint()
    for part in ("val", "test"):
        alone, expected = getattr(bagged, part), getattr(plain, part)
        batch = alone.__getitems__(list(range(110)))
        assert torch.equal(alone.inputs, expected.inputs) and torch.equal(batch["target"], expected.target)
        assert batch["spans"].tolist() == list(range(110))


@pytest.mark.parametrize("world", [1, 2])
def test_batches_have_whole_bags_in_an_order_of_seed_and_epoch(world):
    def epoch(number, seed=0):
        """The batches of all processes together."""
        parts = []
        for rank in range(world):
            loader = data.shuffled(24 // world, world, rank)
            loader.sampler.set_epoch(number)
            parts.append([batch["spans"] for batch in loader])
            assert len(parts[-1]) == len(loader)
        return [torch.cat(batches) for batches in zip(*parts, strict=True)]

    data = ready(bag_size=3, batch_size=24)
    batches = epoch(0)
    assert [len(spans) for spans in batches] == [24] * 9 + [6]
    for spans in batches:
        assert set(spans.bincount().tolist()) <= {0, 3}
    assert sorted(torch.cat(batches).tolist()) == sorted(list(range(74)) * 3)
    assert torch.equal(torch.cat(batches).unique(), torch.cat(epoch(1)).unique())
    assert not torch.equal(torch.cat(batches), torch.cat(epoch(1)))
    # Two processes have the batches of one.
    first = data.shuffled(24, 1, 0)
    assert [set(spans.tolist()) for spans in batches] == [set(batch["spans"].tolist()) for batch in first]


def test_an_epoch_goes_on_where_it_stopped():
    samples = BaggedSamples(torch.zeros(12, 1), torch.zeros(12), bags_of(12, 3, seed=0))
    whole = list(BagSampler(samples, 1, 0))
    sampler = BagSampler(samples, 1, 0)
    sampler.leave_out(samples=6, epoch=0)
    assert list(sampler) == whole[6:] and list(sampler) == whole


@pytest.mark.parametrize(
    ("attempt", "told"),
    [
        (lambda: bags_of(5, 6, seed=0), "bags_of: bag_size=6 came for 5 samples; give from 1 to 5."),
        (lambda: Diabetes(bag_size=5, batch_size=32),
         "diabetes: bag_size=5 came for batches of 32 samples in each process; give batches of a multiple of 5."),
        (lambda: ready(bag_size=4, batch_size=12).shuffled(6, 2, 0),
         "diabetes: bag_size=4 came for batches of 6 samples in each process; give batches of a multiple of 4."),
        (lambda: next(iter(ready(bag_size=4, batch="tuple").train_dataloader())),
         "data: batch='tuple' came, for batches of 'inputs', 'target', 'index', 'spans'; these data need "
         "batch='mapping'."),
    ],
    ids=["few", "batch", "share", "tuple"],
)  # fmt: skip
def test_what_does_not_fit_is_refused(attempt, told):
    with pytest.raises(ValueError) as raised:
        attempt()
    assert str(raised.value) == told
