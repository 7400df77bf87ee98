"""One state for each training sample: found by index, the same on every process, in the checkpoint."""

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_losses import (
    ALDRKL,
    ELR,
    SAF,
    CrossEntropy,
    Objective,
    ObjectiveMixin,
    ReflectiveLabelCorrector,
    Term,
)
from lightning_losses.mixins.sample_states import SampleState
from lightning_losses.parallel.processes import gather_batch
from tests.distributed.processes import in_group, run_on_processes


class Robust(ObjectiveMixin, L.LightningModule):
    """A user's own module."""

    def __init__(self, **terms):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Linear(4, 3)
        self.objective = Objective(terms or {"elr": ELR()})

    def training_step(self, batch, batch_idx):
        return self.apply_objective(logits=self.network(batch["inputs"]), **batch)

    def validation_step(self, batch, batch_idx):
        # As a step that needs gradients by its inputs does.
        with torch.inference_mode(False), torch.enable_grad():
            return self.training_step(
                {name: torch.as_tensor(value).clone() for name, value in batch.items()}, batch_idx
            )

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1.0)


def every(**options):
    """The losses that remember, at once."""
    saf = SAF(lag=1, start=0, kept_as="bfloat16", **options)
    return Robust(elr=ELR(**options), aldr=ALDRKL(**options), saf=Term(saf, 5.0))


def batch(index):
    index = torch.as_tensor(index)
    inputs = torch.stack([torch.randn(4, generator=torch.Generator().manual_seed(int(i))) for i in index])
    return {"inputs": inputs, "target": index % 3, "index": index}


def kept(module):
    return {
        f"{name}/{column}": rows[: state.size]
        for name, state in module.sample_states.items()
        for column, rows in state.columns.items()
    }


def trainer(folder, **options):
    return L.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, **options,
    )  # fmt: skip


def table(*rows):
    state = SampleState("demo")
    index = torch.arange(len(rows))
    state.reserve(index, {"row": torch.zeros(2)}, torch.device("cpu"))
    state.write(index, {"row": torch.tensor(rows)})
    return state


def test_rows_grow_as_samples_come_and_a_new_one_is_fresh():
    state = table([1.0, 2.0])
    for size in (2, 40, 41):
        state.reserve(torch.tensor([size - 1]), {"row": torch.full((2,), 7.0)}, torch.device("cpu"))
        assert state.size == size
    assert state.columns["row"][:41].tolist() == [[1, 2], *[[7, 7]] * 40]
    assert len(state.state_dict()["row"]) == 41


@pytest.mark.parametrize(
    ("index", "rows", "expected"),
    [
        ([1, 0, 1, 1], [[1, 1], [2, 2], [3, 3], [4, 4]], [[2, 2], [4, 4]]),
        ([0, 1], [[torch.nan, 1], [torch.inf, 1]], [[8, 8], [9, 9]]),
        ([1, 1], [[-torch.inf, 1], [1, torch.nan]], [[8, 8], [-torch.inf, 1]]),
        ([], torch.zeros(0, 2), [[8, 8], [9, 9]]),
    ],
    ids=["the last of a repeated one stays", "not a number", "masked, then not a number", "none"],
)
def test_what_is_written(index, rows, expected):
    state = table([8.0, 8.0], [9.0, 9.0])
    state.write(torch.tensor(index, dtype=torch.int64), {"row": torch.as_tensor(rows, dtype=torch.float32)})
    assert state.columns["row"][:2].tolist() == expected


@pytest.mark.parametrize(
    ("index", "width", "message"),
    [
        ([-1], 2, "demo: index holds -1; give the samples' positions, from 0 on."),
        ([10**15], 2, "demo: index holds 1000000000000000, and the machine has no memory for so many samples' rows; "
                      "give the samples' positions in their data set, which count from 0."),
        ([True], 2, "demo: an index of dtype torch.bool came; give the samples' positions in int64."),
        ([0], 3, "demo: rows of shape [3] came, and of other samples rows of shape [2] are kept; give every sample the "
                 "same shape, and a checkpoint to the network that it is of."),
    ],
    ids=["below 0", "beyond any memory", "a mask", "another shape"],
)  # fmt: skip
def test_what_is_no_row_is_refused(index, width, message):
    with pytest.raises(ValueError) as error:
        table([8.0, 8.0]).reserve(torch.tensor(index), {"row": torch.zeros(width)}, torch.device("cpu"))
    assert str(error.value) == message


def test_a_step_is_told_what_was_kept_at_the_last_one():
    module, loss = Robust(), ELR()
    visits = [batch([0, 1, 2]), batch([2, 0])]
    targets = torch.zeros(3, 3)
    for step in visits:
        output = module.training_step(step, 0)
        before, logits = targets[step["index"]], output["logits"]
        assert torch.equal(output["loss"], loss(logits, step["target"], before))
        targets[step["index"]] = loss.next_targets(logits, before)
    assert torch.equal(kept(module)["running_targets/running_targets"], targets)


@pytest.mark.parametrize("kept_on", ["host", "device"])
def test_an_interrupted_training_is_resumed_to_the_bit(kept_on, tmp_path):
    loader = torch.utils.data.DataLoader(
        [batch(index) for index in ([0, 1, 2], [3, 4], [5, 6, 7, 7], [10])], batch_size=None
    )
    whole, begun, resumed = (every(kept_on=kept_on) for _ in range(3))
    trainer(tmp_path, max_epochs=3, accumulate_grad_batches=2).fit(whole, loader, loader)
    first = trainer(tmp_path, max_epochs=1, accumulate_grad_batches=2)
    first.fit(begun, loader, loader)
    first.save_checkpoint(tmp_path / "cut.ckpt")
    last = trainer(tmp_path, max_epochs=3, accumulate_grad_batches=2)
    last.fit(resumed, loader, loader, ckpt_path=tmp_path / "cut.ckpt", weights_only=True)
    assert torch.equal(whole.network.weight, resumed.network.weight)
    assert not torch.equal(whole.network.weight, begun.network.weight)
    for name, rows in kept(whole).items():
        assert torch.equal(rows, kept(resumed)[name]), name
    # The ring tells: the last visits of these samples were in the epochs 2 and 1.
    assert kept(whole)["trajectory_logits/epoch_0"].max() == 2 and kept(whole)["trajectory_logits/epoch_1"].max() == 1
    # What another fit left is forgotten where the checkpoint has no rows.
    resumed.on_load_checkpoint({})
    assert not resumed.sample_states
    # Two were never seen, nor written in validation.
    assert kept(whole)["running_targets/running_targets"][8:10].sum() == 0


def test_outside_of_training_each_sample_is_as_never_seen(tmp_path):
    module = every()
    module.training_step(batch([0, 1]) | {"epoch": 0}, 0)
    before = {name: rows.clone() for name, rows in kept(module).items()}
    step = {name: value for name, value in batch([0, 1]).items() if name != "index"}
    (measured,) = trainer(tmp_path).validate(
        module, torch.utils.data.DataLoader([step], batch_size=None), verbose=False
    )
    assert all(torch.equal(rows, kept(module)[name]) for name, rows in before.items())
    logits = module.network(step["inputs"])
    first_visit = ELR()(logits, step["target"], torch.zeros(2, 3))
    assert measured["val/objective/elr"] == pytest.approx(first_visit.item())
    assert measured["val/objective/saf"] == pytest.approx(0, abs=1e-7)
    with torch.no_grad():
        module.training_step(batch([0, 1]) | {"epoch": 1}, 0)
    assert all(torch.equal(rows, kept(module)[name]) for name, rows in before.items())


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, "Robust: the objective remembers 'running_targets' of each sample and needs the samples' 'index'; the "
               "step offered 'inputs', 'logits', 'target'; let the data set return each sample's position, and a "
               "collate function or mixup that makes new batches keep it."),
        (torch.arange(3), "Robust: an index of shape [3] came with 2 rows of logits, and 'running_targets' is kept of "
                          "each; give every row its sample's position: what mixes, repeats or cuts a batch must do so "
                          "with index."),
        ([0, 1], "Robust: an index that is a list came with 2 rows of logits, and 'running_targets' is kept of each; "
                 "give every row its sample's position: what mixes, repeats or cuts a batch must do so with index."),
    ],
    ids=["none", "of another number", "no tensor"],
)  # fmt: skip
def test_a_step_that_lost_its_positions_is_refused(index, message):
    step = batch([0, 1]) | {"index": index}
    if index is None:
        del step["index"]
    with pytest.raises(ValueError) as error:
        Robust().training_step(step, 0)
    assert str(error.value) == message


def test_what_a_memory_is_made_of_must_be_there():
    with pytest.raises(ValueError) as error:
        Robust(saf=SAF()).training_step(batch([0]), 0)
    assert str(error.value) == (
        "Robust: what is kept of samples is made of the step's 'epoch'; the step offered 'index', 'inputs', 'logits', "
        "'target'; give apply_objective epoch=..., or train by a Trainer, which tells the epoch."
    )


def test_two_terms_remember_under_names_of_their_own():
    terms = {"first": ELR(beta=0.7), "second": ELR(beta=0.2)}
    with pytest.raises(ValueError) as error:
        Robust(**terms).training_step(batch([0]), 0)
    assert str(error.value) == (
        "Robust: two terms remember 'running_targets' of each sample, the second is 'second'; give it a name of its "
        "own: Term(loss, inputs={'running_targets': 'running_targets_2'})."
    )
    renamed = Term(terms["second"], inputs={"running_targets": "slower"})
    module = Robust(first=terms["first"], second=renamed, ce=CrossEntropy())
    p = module.training_step(batch([0]), 0)["logits"].softmax(dim=-1)
    rows = kept(module)
    torch.testing.assert_close(rows["running_targets/running_targets"], 0.3 * p)
    torch.testing.assert_close(rows["slower/running_targets"], 0.8 * p)


def seen_by_each():
    """Each process its own samples, one of them on both; afterwards all have the rows of all."""
    rank, module, loss, targets = torch.distributed.get_rank(), every(), ELR(), torch.zeros(6, 3)
    for epoch, shares in enumerate([([4, 0, 1], [1, 5]), ([5], [0, 4, 2])]):
        before = targets.clone()
        for process, share in enumerate(shares):
            step = batch(share) | {"epoch": epoch}
            step["inputs"] += process  # of the sample that both have, each has a view of its own
            targets[share] = loss.next_targets(module.network(step["inputs"]), before[share])
            if process == rank:
                module.training_step(step, 0)
    rows = kept(module)
    assert torch.equal(rows["running_targets/running_targets"], targets)
    assert len(rows) == 6 and all(len(column) == 6 for column in rows.values())
    for name, column in rows.items():
        first, second = gather_batch(column.double()).split(6)
        assert torch.equal(first, second), name


@pytest.mark.distributed
def test_every_process_has_the_rows_of_all():
    run_on_processes(in_group, 2, seen_by_each)


def corrector():
    module = Robust(corrector=ReflectiveLabelCorrector([5, 4, 3], threshold=0.3, margin=0.0))
    return module, module.objective.terms["corrector"].loss


def counted_by_each():
    """Labels are added in the batch of all processes, and all count them."""
    (module, loss), (_, alone) = corrector(), corrector()
    step = batch([0, 1, 2, 3, 4])
    alone.after_step(module.network(step["inputs"]), F.one_hot(step["target"], 3), epoch=1)
    share = slice(0, 2) if torch.distributed.get_rank() == 0 else slice(2, 5)
    module.training_step({name: value[share] for name, value in step.items()} | {"epoch": 1}, 0)
    assert alone.added.any() and torch.equal(loss.added, alone.added)


@pytest.mark.distributed
def test_every_process_counts_what_was_added_on_all():
    run_on_processes(in_group, 2, counted_by_each)


def test_a_loss_learns_of_a_training_step_alone(tmp_path):
    module, loss = corrector()
    step = batch([0, 1, 2]) | {"epoch": 1}
    with torch.no_grad():
        module.training_step(step, 0)
    trainer(tmp_path).validate(module, torch.utils.data.DataLoader([step], batch_size=None), verbose=False)
    assert not loss.added.any()
    module.trainer = None
    for visit in (1, 2):
        output = module.training_step(step, 0)
        missing = loss.corrected(output["logits"], F.one_hot(step["target"], 3), 1).added
        assert missing.any() and torch.equal(loss.added, visit * missing)
