"""Two views of every sample, and what is made of them."""

import copy

import lightning as L
import pytest
import torch
from torch import nn

from lightning_losses import (
    BarlowTwins,
    ClipContrastive,
    DINOLoss,
    MixedBarlowTwins,
    NegativeCosine,
    NTXent,
    Objective,
    Term,
)
from lightning_losses.data.random_views import RandomSignal
from lightning_losses.mixins.ema_teacher import EMATeacherMixin
from lightning_losses.mixins.two_views import TwoViews
from tests.distributed.processes import Sharded, one_step

INPUTS = torch.randn(12, 1, 6, generator=torch.Generator().manual_seed(0))
VIEWS = RandomSignal(shift=2)


def batch(rows=slice(None)):
    return {"inputs": INPUTS[rows], "index": torch.arange(12)[rows]}


def against_queue(embeddings, embeddings_b, queue=None):
    """A contrast that shows what is in the queue."""
    columns = embeddings_b if queue is None else torch.cat([embeddings_b, queue])
    return torch.logsumexp(embeddings @ columns.T, dim=1).mean() - (embeddings * embeddings_b).sum(dim=1).mean()


class Contrast(nn.Module):
    batch_coupled = True

    def forward(self, embeddings, embeddings_b, queue=None):
        return against_queue(embeddings, embeddings_b, queue)


class Learner(Sharded, TwoViews, L.LightningModule):
    def __init__(self, loss, queue=0, network=None):
        super().__init__()
        torch.manual_seed(0)
        self.network = network or nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        self.objective = Objective({"loss": loss})
        if self.objective.needs("predictions"):
            self.predictor = nn.Linear(3, 3)
        self.augmentation = VIEWS
        if queue:
            self.start_queue(queue, 3)

    def training_step(self, batch, batch_idx):
        return self.apply_objective(**batch)

    def validation_step(self, batch, batch_idx):
        return self.apply_objective(**batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class MovingLearner(EMATeacherMixin, Learner):
    def __init__(self, loss, queue=0):
        super().__init__(loss, queue)
        self.start_ema_teacher("network", decay=0.5, warmup=False)


def fit(module, folder, epochs=2, path=None, **options):
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0, **options,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader([batch(slice(0, 6)), batch(slice(6, 12))], batch_size=None)
    trainer.fit(module, loader, loader, ckpt_path=path, weights_only=True)
    return trainer


def test_a_view_is_fixed_by_its_sample_and_number():
    module = Learner(BarlowTwins())
    step, other = module.training_step(batch(), 0), module.training_step(batch(slice(3, 6)), 1)
    assert torch.equal(step["inputs"][3:6], other["inputs"])
    assert torch.equal(step["other_inputs"][3:6], other["other_inputs"])
    assert not torch.equal(step["inputs"], step["other_inputs"])
    module.view_seed = 1
    assert not torch.equal(module.training_step(batch(), 0)["inputs"], step["inputs"])
    # Those of the data are taken as they are.
    given = {**batch(), "other_inputs": -INPUTS}
    step = module.training_step(given, 0)
    assert torch.equal(step["inputs"], INPUTS) and torch.equal(step["embeddings_b"], module.network(-INPUTS))


def test_views_pass_alone_unless_they_shall_not():
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.BatchNorm1d(3))
    module = Learner(BarlowTwins(), network=network)
    step = module.training_step(batch(), 0)
    torch.testing.assert_close(step["embeddings"].mean(dim=0), torch.zeros(3), atol=1e-6, rtol=0)
    module.views_together = True
    step = module.training_step(batch(), 0)
    assert step["embeddings"].mean(dim=0).abs().min() > 1e-3
    both = torch.cat([step["embeddings"], step["embeddings_b"]])
    torch.testing.assert_close(both.mean(dim=0), torch.zeros(3), atol=1e-6, rtol=0)


def test_predictions_and_targets_are_those_of_simsiam_and_of_byol():
    siamese = Learner(NegativeCosine())
    step = siamese.training_step(batch(), 0)
    z, z_b = step["embeddings"], step["embeddings_b"]
    own = NegativeCosine()(siamese.predictor(z), siamese.predictor(z_b), z, z_b)
    torch.testing.assert_close(step["loss"], own)
    moving = MovingLearner(NegativeCosine())
    with torch.no_grad():
        moving.teacher[1].weight.mul_(-2)
    step = moving.training_step(batch(), 0)
    z, z_b = step["embeddings"], step["embeddings_b"]
    targets = [moving.teacher(step[name]) for name in ("inputs", "other_inputs")]
    torch.testing.assert_close(step["loss"], NegativeCosine()(moving.predictor(z), moving.predictor(z_b), *targets))
    del siamese.predictor
    with pytest.raises(ValueError) as caught:
        siamese.training_step(batch(), 0)
    assert str(caught.value) == (
        "Learner: the objective takes predictions; set self.predictor, which makes them of embeddings, or override "
        "predict."
    )


def test_mixtures_are_of_a_first_view_and_anothers_second():
    offered = {}

    class Seen(MixedBarlowTwins):
        def forward(self, embeddings, embeddings_b, mixed_embeddings, partner_embeddings, mix_share):
            offered.update(mixed=mixed_embeddings, partner=partner_embeddings, share=mix_share)
            return super().forward(embeddings, embeddings_b, mixed_embeddings, partner_embeddings, mix_share)

    # A linear network, in which embeddings of mixtures are mixtures of embeddings.
    module = Learner(Seen(), network=nn.Sequential(nn.Flatten(), nn.Linear(6, 3, bias=False)))
    step = module.training_step(batch(), 0)
    share = offered["share"].unsqueeze(1)
    torch.testing.assert_close(offered["mixed"], share * step["embeddings"] + (1 - share) * offered["partner"])
    rows = [(step["embeddings_b"] == row).all(dim=1).nonzero().item() for row in offered["partner"]]
    assert sorted(rows) == list(range(12)) and rows != list(range(12)) and len(set(share.flatten().tolist())) == 1
    step = module.eval().training_step(batch(), 0)
    assert (offered["share"] == 1).all() and torch.equal(offered["partner"], step["embeddings_b"])


def test_crops_are_further_views():
    offered = {}

    class Seen(DINOLoss):
        def forward(self, embeddings, embeddings_b, target_embeddings, target_embeddings_b, crop_embeddings=None):
            offered["crops"] = crop_embeddings
            return super().forward(embeddings, embeddings_b, target_embeddings, target_embeddings_b, crop_embeddings)

    module = MovingLearner(Seen(3))
    module.training_step(batch(), 0)
    assert offered["crops"] is None
    module.crops, module.crop_augmentation = 2, lambda signal, generator: signal[..., :1].expand_as(signal)
    module.training_step(batch(), 0)
    plain = module.network(INPUTS[..., :1].expand_as(INPUTS))
    torch.testing.assert_close(offered["crops"], torch.stack([plain, plain], dim=1))


@pytest.mark.parametrize("make", [Learner, MovingLearner])
def test_the_queue_holds_the_newest_embeddings_and_resumes_to_the_bit(make, tmp_path):
    seen, views = [], []

    class Watched(make):
        def on_objective(self, output, offered=None):
            super().on_objective(output, offered)
            name = "embeddings_b" if make is Learner else "target_embeddings_b"
            seen.append({**output, **(offered or {})}[name].detach())
            views.extend([output["inputs"], output["other_inputs"]])

    whole, begun, resumed = (Watched(Contrast(), queue=16) for _ in range(3))
    fit(whole, tmp_path, epochs=4)
    newest = torch.cat(seen[::-1])[:16]
    assert torch.equal(whole.past_embeddings, newest) and len(seen) == 8
    # Every epoch has views of its own.
    assert len({str(view.tolist()) for view in views}) == len(views) == 16
    fit(begun, tmp_path, epochs=2).save_checkpoint(tmp_path / "cut.ckpt")
    fit(resumed, tmp_path, epochs=4, path=tmp_path / "cut.ckpt")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    # Evaluation leaves it alone.
    before = copy.deepcopy(whole.past_embeddings)
    with torch.no_grad():
        whole.training_step(batch(), 0)
    assert torch.equal(whole.past_embeddings, before)


def test_a_queue_comes_with_the_state_alone():
    module, other = Learner(Contrast(), queue=16), Learner(Contrast(), queue=16)
    module.training_step(batch(slice(0, 6)), 0)
    # A row that is 0 is one of them.
    module.past_embeddings[2] = 0
    other.load_state_dict(module.state_dict())
    values = [one.training_step(batch(slice(6, 12)), 1)["loss"] for one in (module, other)]
    assert torch.equal(*values) and torch.equal(module.past_embeddings, other.past_embeddings)


def test_labels_are_for_losses_that_ask_for_them():
    """A loss that can do without would leave out samples without a label, and compare no two of a class."""
    labelled = {**batch(), "target": torch.tensor([0, 0, 1, 1, 1, 2] + [-100] * 6)}
    unseen = Learner(ClipContrastive()).training_step(labelled, 0)
    views = unseen["embeddings"], unseen["embeddings_b"]
    torch.testing.assert_close(unseen["loss"], ClipContrastive()(*views))
    assert torch.equal(unseen["target"], labelled["target"])
    asking = Learner(Term(ClipContrastive(), inputs={"target": "target"})).training_step(labelled, 0)
    torch.testing.assert_close(asking["loss"], ClipContrastive()(*views, target=labelled["target"]))


def test_what_does_not_fit_is_told():
    """Views of unlike numbers of samples, a queue of another width, an index of other samples."""
    module = Learner(NTXent(), queue=16)
    module.views_together = True
    with pytest.raises(ValueError, match=r"embeddings_b of shape \[2, 3\] came with embeddings of shape \[4, 3\]"):
        module.training_step({"inputs": torch.randn(4, 6), "other_inputs": torch.randn(2, 6)}, 0)
    module.start_queue(16, 4)
    with pytest.raises(ValueError, match=r"shape \[6, 3\] came for a queue of width 4; call start_queue\(16, dim=3\)"):
        module.training_step(batch(slice(0, 6)), 0)
    with pytest.raises(ValueError, match="an index of 2 samples came"):
        module.training_step({**batch(slice(0, 6)), "index": torch.arange(2)}, 0)


def test_a_queue_that_is_empty_is_not_offered():
    module = Learner(Contrast(), queue=16)
    first = module.training_step(batch(slice(0, 6)), 0)
    torch.testing.assert_close(first["loss"], against_queue(first["embeddings"], first["embeddings_b"]))
    second = module.training_step(batch(slice(6, 12)), 1)
    past = first["embeddings_b"].detach()
    torch.testing.assert_close(second["loss"], against_queue(second["embeddings"], second["embeddings_b"], past))
    before = module.past_embeddings.clone()
    with torch.no_grad():
        module.training_step(batch(), 2)
    assert torch.equal(module.past_embeddings, before)


def queues(shards, folder):
    """Every process's queue after two steps."""

    class Writing(Learner):
        def on_train_end(self):
            torch.save(self.past_embeddings, folder / f"{len(shards)}_{self.global_rank}.pt")

    found = one_step(lambda: Writing(Contrast(), queue=16), shards, folder, "ddp", accumulate=2)
    return found, [torch.load(folder / f"{len(shards)}_{rank}.pt", weights_only=True) for rank in range(len(shards))]


@pytest.mark.distributed
def test_every_process_has_the_queue_of_one_with_the_whole_batch(tmp_path):
    several, (first, second) = queues(
        [[batch(slice(0, 4)), batch(slice(6, 9))], [batch(slice(4, 6)), batch(slice(9, 12))]], tmp_path
    )
    one, (whole,) = queues([[batch(slice(0, 6)), batch(slice(6, 12))]], tmp_path)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, whole)
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(several["gradients"][name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "given", "told"),
    [
        ({"augmentation": None}, batch(), "the step has no 'other_inputs' as a second view; give data with pairs=True, "
         "or set self.augmentation."),
        ({}, {"index": torch.arange(2)}, "two views need 'inputs'; the step offered 'index'."),
    ],
    ids=["no augmentation", "no inputs"],
)  # fmt: skip
def test_a_step_without_two_views_is_refused(change, given, told):
    module = Learner(Term(BarlowTwins()))
    vars(module).update(change)
    with pytest.raises(ValueError) as caught:
        module.training_step(given, 0)
    assert str(caught.value) == f"Learner: {told}"


def test_a_trainers_evaluation_mixes_nothing_and_draws_nothing(tmp_path):
    class Watched(Learner):
        def validation_step(self, batch, batch_idx):
            state = torch.get_rng_state()
            steps.append(super().validation_step(batch, batch_idx))
            assert torch.equal(torch.get_rng_state(), state)

    steps, data = [], {"inputs": INPUTS}
    module = Watched(MixedBarlowTwins())
    trainer = L.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    for _ in range(2):
        trainer.validate(module, torch.utils.data.DataLoader([data], batch_size=None), verbose=False)
    assert torch.equal(steps[0]["inputs"], steps[1]["inputs"]) and steps[0]["loss"] == steps[1]["loss"]
    a, b = (steps[0][name] for name in ("embeddings", "embeddings_b"))
    one = torch.ones(len(a))
    torch.testing.assert_close(steps[0]["loss"], MixedBarlowTwins()(a, b, a, b, one))


def test_a_queue_that_no_term_takes_is_refused():
    with pytest.raises(ValueError, match="^Learner: a queue came with an objective none of whose terms takes 'queue'"):
        Learner(BarlowTwins(), queue=4).training_step(batch(), 0)
