"""Batches that processes make ahead are the same ones, and those for a GPU lie where it can copy them from."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_losses import CrossEntropy, Objective
from lightning_losses.data import Digits
from lightning_losses.data.loading import share_of_training_set
from lightning_losses.data.seeded_views import RandomShift
from lightning_losses.data.sparse_parity import SparseParity
from lightning_losses.data.stdlib_docstrings import StdlibDocstrings
from lightning_losses.data.stdlib_text import StdlibText
from lightning_losses.modules import Classifier
from lightning_losses.modules.full_batch_learner import FullBatchLearner

# Python warns of any fork beside threads, and torch of more processes than cores.
with_workers = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded", "ignore:This DataLoader will create"
)


def digits(**options):
    data = Digits(train_rows=200, batch_size=20, augmentation=RandomShift(1), views=2, **options)
    data.setup()
    return data


def text(**options):
    data = StdlibText(batch_size=8, block_length=32, max_bytes=20_000, **options)
    data.setup()
    return data


def trainer_on(device):
    return SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))


def batches_of_epoch(loader, epoch):
    # Lightning makes the iterator first, and tells the epoch then.
    batches = iter(loader)
    loader.sampler.set_epoch(epoch)
    return list(batches)


@pytest.mark.parametrize("made", [digits, text])
@with_workers
def test_workers_make_the_same_batches(made):
    alone, ahead = made().train_dataloader(), made(num_workers=2).train_dataloader()
    before = torch.get_rng_state()
    for epoch in (0, 1, 3):
        worked = batches_of_epoch(ahead, epoch)
        assert torch.equal(torch.get_rng_state(), before)
        torch.testing.assert_close(worked, batches_of_epoch(alone, epoch), rtol=0, atol=0)
        torch.set_rng_state(before)


@with_workers
def test_batches_made_ahead_are_not_counted_as_taken():
    whole, begun, resumed = (digits(num_workers=2).train_dataloader() for _ in range(3))
    batches = iter(begun)
    begun.sampler.set_epoch(1)
    for _ in range(3):
        next(batches)
    resumed.load_state_dict(begun.state_dict())
    rest = iter(resumed)
    resumed.sampler.set_epoch(1)
    torch.testing.assert_close([next(rest)], batches_of_epoch(whole, 1)[3:4], rtol=0, atol=0)
    assert resumed.state_dict() == {"epoch": 1, "batches": 4}


@pytest.mark.parametrize(
    ("pin_memory", "device", "pinned"),
    [(None, "cuda", True), (None, "cpu", False), (None, None, False), (True, "cpu", True), (False, "cuda", False)],
)
def test_batches_are_pinned_for_cuda_alone_unless_it_is_said(pin_memory, device, pinned):
    data = digits(pin_memory=pin_memory)
    data.trainer = None if device is None else trainer_on(device)
    assert data.val_dataloader().pin_memory is pinned


@pytest.mark.cuda
@pytest.mark.parametrize("made", [digits, text])
def test_a_gpu_is_given_pinned_batches(made):
    data = made()
    data.trainer = trainer_on("cuda")
    batch = next(iter(data.val_dataloader()))
    assert all(tensor.is_pinned() for tensor in batch.values())


@pytest.mark.parametrize("data", [Digits, StdlibText])
def test_a_number_of_workers_below_none_is_refused(data):
    with pytest.raises(ValueError, match=r"num_workers=-1"):
        data(num_workers=-1)


@pytest.mark.parametrize("form", ["mapping", "tuple"])
def test_loaders_give_either_form_and_ready_modules_train_on_both(form):
    data, task = Digits(batch_size=700, batch=form), SparseParity(steps_per_epoch=1, batch=form)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    for module, fed in (
        (Classifier(network, Objective({"ce": CrossEntropy()}), num_classes=10), data),
        (FullBatchLearner(nn.Linear(43, 2), Objective({"ce": CrossEntropy()})), task),
    ):
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(module, fed)
        assert trainer.callback_metrics["val/loss"] > 0
        for loader in (fed.train_dataloader(), fed.val_dataloader(), fed.test_dataloader()):
            batch = next(iter(loader))
            inputs, target = batch if form == "tuple" else (batch["inputs"], batch["target"])
            assert len(inputs) == len(target) and isinstance(batch, dict if form == "mapping" else tuple)


def test_a_tuple_leaves_out_no_documents():
    data = StdlibDocstrings(batch_size=2, block_length=32, max_bytes=20_000, batch="tuple")
    data.setup()
    with pytest.raises(ValueError, match=r"batch='tuple' came, for batches of .*'documents'.*need batch='mapping'"):
        next(iter(data.train_dataloader()))
    with pytest.raises(ValueError, match="batch='list' came"):
        Digits(batch="list")


@pytest.mark.parametrize(("length", "size"), [(5, 1), (5, 2), (9, 2), (8, 3), (2, 4), (7, None)])
def test_shares_of_the_training_set_have_equally_many_batches(length, size):
    loader = DataLoader(range(length), batch_size=4, collate_fn=list)
    shares = [
        list(
            share_of_training_set("who", SimpleNamespace(train_dataloader=loader, world_size=2, global_rank=rank), size)
        )
        for rank in (0, 1)
    ]
    assert len(shares[0]) == len(shares[1])
    assert all(0 < len(batch) <= (size or 256) + 1 for share in shares for batch in share)
    assert sorted(row for share in shares for batch in share for row in batch) == list(range(length))


@pytest.mark.parametrize(
    ("loader", "sentence"),
    [
        (
            lambda: DataLoader(range(1)),
            "a training set of 1 samples came with 2 processes; give at least one for each.",
        ),
        (
            lambda: DataLoader(range(3), batch_size=None),
            "a training set of 3 batches came with 2 processes; give a multiple of that.",
        ),
    ],
    ids=["samples", "batches"],
)
def test_what_processes_can_not_share_is_refused_on_each(loader, sentence):
    for rank in (0, 1):
        with pytest.raises(ValueError) as raised:
            share_of_training_set(
                "who", SimpleNamespace(train_dataloader=loader(), world_size=2, global_rank=rank), None
            )
        assert str(raised.value) == f"who: {sentence}"
