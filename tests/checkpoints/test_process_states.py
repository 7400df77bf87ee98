"""What each process has of its own within an epoch; `tests/recipes/test_kill_processes.py` has whole runs."""

from types import SimpleNamespace

import pytest
import torch

from lightning_losses.checkpoints import EpochSeed
from lightning_losses.checkpoints.process_states import add_logged_values, add_process_states, same, take_process_states
from lightning_losses.data.resumable import ResumableLoader
from lightning_losses.samplers.resumable import ResumableSampler


def begun_epoch(sums):
    loop = {"fit_loop": {"state_dict": {"combined_loader": [{"batches": 2}]}}}
    return {"loops": loop, "callbacks": {"Sums": {"sums": sums}}}


def test_a_process_takes_its_own_states_back():
    checkpoint, other = begun_epoch(torch.zeros(2)), begun_epoch(torch.ones(2))
    add_process_states(checkpoint, {"loss": 1.0})
    (first,) = checkpoint["process_states"]
    # What is where Lightning reads it isn't kept twice.
    assert first == {"logged": {"loss": 1.0}, "loaders": [{"batches": 2}], "callbacks": {}}
    second = {"logged": {"loss": 2.0}, "loaders": [{"batches": 5}], "callbacks": other["callbacks"]}
    checkpoint["process_states"].append(second)
    assert take_process_states(checkpoint, SimpleNamespace(world_size=2, global_rank=1)) == {"loss": 2.0}
    assert torch.equal(checkpoint["callbacks"]["Sums"]["sums"], torch.ones(2))
    assert checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [{"batches": 5}]


def test_another_number_of_processes_is_told_and_keeps_what_all_have():
    checkpoint = {**begun_epoch(torch.zeros(2)), "process_states": [{}, {}]}
    with pytest.warns(UserWarning, match="2 processes wrote this checkpoint within an epoch, and 1 continue"):
        assert take_process_states(checkpoint, SimpleNamespace(world_size=1, global_rank=0)) == {}
    assert checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [{"batches": 2}]


def test_another_number_of_processes_draws_numbers_of_its_own_and_the_same_again():
    def drawn(batch_idx, states, rank=0):
        seed = EpochSeed(3)
        seed.on_load_checkpoint(None, None, {"random_states": states})
        trainer = SimpleNamespace(world_size=1, global_rank=rank, current_epoch=1)
        seed.on_train_batch_start(trainer, SimpleNamespace(device=torch.device("cpu")), None, batch_idx)
        return torch.rand(1).item()

    two = [{}, {}]
    assert drawn(2, two) == drawn(2, two)
    assert len({drawn(2, two), drawn(3, two), drawn(2, two, rank=1), drawn(0, [])}) == 4


def test_another_number_of_processes_sees_the_batches_that_were_left():
    samples = list(range(16))

    def loader(processes, rank):
        return ResumableLoader(samples, 8 // processes, ResumableSampler(samples, processes, rank, seed=5))

    two = [loader(2, rank) for rank in (0, 1)]
    iterators = [iter(each) for each in two]
    for each in iterators:
        next(each)
    one = loader(1, 0)
    one.load_state_dict(two[0].state_dict())
    left = torch.cat([next(each) for each in iterators])
    (batch,) = one
    assert sorted(batch.tolist()) == sorted(left.tolist())


def test_values_of_another_kind_are_not_the_same():
    one = {"sums": [torch.ones(2), 1]}
    assert same(one, {"sums": [torch.ones(2), 1]})
    for other in (torch.ones(2, dtype=torch.float64), torch.zeros(2), [1.0, 1.0]):
        assert not same(one, {"sums": [other, 1]})


def test_what_the_begun_epoch_has_logged_goes_on(monkeypatch):
    def result(value, weight=None, **kind):
        meta = SimpleNamespace(**{"is_max_reduction": False, "is_min_reduction": False, "reduce_fx": torch.max} | kind)
        return SimpleNamespace(value=torch.tensor(value), cumulated_batch_size=weight, meta=meta)

    here = {
        "mean": result(2.0, torch.tensor(3)),
        "largest": result(1.0, is_max_reduction=True),
        "later": result(7.0, torch.tensor(1)),
    }
    monkeypatch.setattr("lightning_losses.checkpoints.process_states.epoch_results", lambda trainer: here)
    before = {"mean": (5.0, torch.tensor(4)), "largest": (4.0, None), "not yet": (1.0, None)}
    saved = {name: {"value": torch.tensor(value), "weight": weight} for name, (value, weight) in before.items()}
    add_logged_values(None, saved)
    assert {name: float(each.value) for name, each in here.items()} == {"mean": 7.0, "largest": 4.0, "later": 7.0}
    assert here["mean"].cumulated_batch_size == 7 and here["later"].cumulated_batch_size == 1
    # It waits until it is logged again.
    assert list(saved) == ["not yet"]
