"""Domains in which the student lags are drawn more often, as training goes on."""

import itertools
from types import SimpleNamespace

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from lightning_losses import KD, CrossEntropy, Objective
from lightning_losses.callbacks.companions import domain_weights
from lightning_losses.callbacks.companions.domain_weights import DomainWeights
from lightning_losses.modules import Distiller
from lightning_losses.samplers import DomainSampler, initial_domain_weights, updated_domain_weights


class Samples(torch.utils.data.Dataset):
    """Two domains, by turns, whose inputs lie apart."""

    def __init__(self, count, seed, domain=True):
        generator = torch.Generator().manual_seed(seed)
        self.domain = torch.arange(count) % 2
        self.inputs = torch.randn(count, 4, generator=generator) + 2 * self.domain.unsqueeze(1)
        self.target = torch.randint(0, 3, (count,), generator=generator)
        self.target[0] = 255
        self.tells = domain

    def __len__(self):
        return len(self.target)

    def __getitem__(self, position):
        sample = {"inputs": self.inputs[position], "target": self.target[position]}
        return {**sample, "domain": self.domain[position]} if self.tells else sample


class Data(L.LightningDataModule):
    def __init__(self, sampler=True, domain=True):
        super().__init__()
        self.train, self.val, self.sampled = Samples(24, 0), Samples(20, 1, domain), sampler

    def train_dataloader(self):
        world, rank = self.trainer.world_size, self.trainer.global_rank
        sampler = DomainSampler(self.train.domain, num_replicas=world, rank=rank) if self.sampled else None
        return torch.utils.data.DataLoader(self.train, batch_size=4 // world, sampler=sampler)

    def val_dataloader(self):
        return torch.utils.data.DataLoader(self.val, batch_size=7)


class Student(Distiller):
    """Writes its weights down when it is done, and does not validate."""

    def validation_step(self, batch, batch_idx):
        pass

    def on_train_end(self):
        torch.save(self.state_dict(), f"{self.trainer.default_root_dir}/{self.trainer.world_size}.pt")


def student():
    torch.manual_seed(0)
    return Student(
        nn.Linear(4, 3), network=nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.0)), num_classes=3,
        objective=Objective({"ce": CrossEntropy(ignore_index=255), "kd": KD(1.0, ignore_index=255)}),
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.5),
    )  # fmt: skip


class Watching(DomainWeights):
    """Remembers the student at each evaluation, and what followed from it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seen = []

    def on_train_start(self, trainer, module):
        super().on_train_start(trainer, module)
        self.seen.append((ce(module.network), self.weights))

    def on_train_batch_end(self, trainer, module, *rest):
        super().on_train_batch_end(trainer, module, *rest)
        self.seen.append((ce(module.network), self.weights))


@torch.no_grad()
def ce(network):
    data = Samples(20, 1)
    losses = F.cross_entropy(network(data.inputs).double(), data.target, ignore_index=255, reduction="none")
    return torch.stack([losses[(data.domain == domain) & (data.target != 255)].mean() for domain in (0, 1)])


def fit(folder, callback, data=None, module=None, epochs=1, path=None, **options):
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, use_distributed_sampler=False, callbacks=[callback],
        num_sanity_val_steps=0, **{"devices": 1, **options},
    )  # fmt: skip
    trainer.fit(module or student(), data or Data(), ckpt_path=path, weights_only=True)
    return trainer


def test_the_weights_are_those_of_the_losses_every_few_steps(tmp_path):
    callback, module = Watching(every=2, alpha=0.7), student()
    trainer = fit(tmp_path, callback, module=module)
    assert module.training and len(callback.seen) == 7
    teacher = ce(module.teacher)
    torch.testing.assert_close(callback.teacher_ce, teacher)
    expected = initial_domain_weights(callback.seen[0][0], teacher)
    for step, (losses, weights) in enumerate(callback.seen):
        if step and step % 2 == 0:
            expected = updated_domain_weights(expected, losses, teacher, alpha=0.7)
        torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(trainer.train_dataloader.sampler.weights, expected)
    assert float(trainer.logged_metrics["train/domain_weight/0"]) == pytest.approx(
        sum(float(weights[0]) for _, weights in callback.seen[1:]) / 6, rel=1e-5
    )


def test_accumulated_batches_renew_them_once_a_step_and_none_before_the_first(tmp_path):
    callback = Watching(every=1)
    fit(tmp_path, callback, accumulate_grad_batches=2)
    weights = [weights for _, weights in callback.seen]
    # At the start, and after each of six batches.
    assert [one is other for one, other in itertools.pairwise(weights)] == [True, False] * 3


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_resumed_training_goes_on_with_its_weights(tmp_path, accumulate):
    options = {"accumulate_grad_batches": accumulate}
    whole, cut, rest = student(), student(), student()
    uninterrupted, resumed = Watching(every=2), Watching(every=2)
    fit(tmp_path, uninterrupted, module=whole, epochs=3, **options)
    fit(tmp_path, Watching(every=2), module=cut, epochs=1, **options).save_checkpoint(tmp_path / "cut.ckpt")
    fit(tmp_path, resumed, module=rest, epochs=3, path=tmp_path / "cut.ckpt", **options)
    assert torch.equal(rest.network[0].weight, whole.network[0].weight)
    for (_, again), (_, weights) in zip(resumed.seen[1:], uninterrupted.seen[7:], strict=True):
        assert torch.equal(again, weights)


@pytest.mark.distributed
def test_two_processes_draw_and_learn_what_one_does(tmp_path):
    fit(tmp_path, DomainWeights(every=2))
    fit(tmp_path, DomainWeights(every=2), devices=2, strategy=DDPStrategy(start_method="fork"))
    one, two = (torch.load(tmp_path / f"{world}.pt", weights_only=True) for world in (1, 2))
    # Float32 sums in another order, six steps on.
    torch.testing.assert_close(two["network.0.weight"], one["network.0.weight"], rtol=1e-4, atol=1e-6)


def test_all_processes_evaluate_as_many_batches_and_count_each_once(monkeypatch):
    monkeypatch.setattr(domain_weights, "on_the_device", lambda trainer, module, batch: batch)
    held_out = torch.utils.data.DataLoader(Samples(20, 1), batch_size=7)
    module, counted = student(), []
    for rank in (0, 1):
        sampler = torch.utils.data.DataLoader(Samples(4, 0), sampler=DomainSampler(torch.arange(4) % 2))
        strategy = SimpleNamespace(reduce=lambda sums, reduce_op: sums)
        trainer = SimpleNamespace(
            world_size=2,
            global_rank=rank,
            strategy=strategy,
            train_dataloader=sampler,
            val_dataloaders=held_out,
            lightning_module=module,
        )
        predicted = []
        callback = DomainWeights()
        callback._losses(trainer, module, lambda batch, seen=predicted: seen.append(batch) or module(batch["inputs"]))
        counted.append(len(predicted))
    # Three batches; forward passes of sharded weights are of all processes.
    assert counted == [2, 2]


def test_shares_of_the_draws_are_the_draws():
    whole = list(DomainSampler(torch.arange(9) % 2, seed=3))
    parts = [list(DomainSampler(torch.arange(9) % 2, seed=3, num_replicas=2, rank=rank)) for rank in (0, 1)]
    assert [position for pair in zip(*parts, strict=True) for position in pair] == whole[:8]


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(ValueError, match="^DomainWeights: the training data are drawn by a SequentialSampler"):
        fit(tmp_path, DomainWeights(), Data(sampler=False))
    with pytest.raises(ValueError, match="^DomainWeights: validation batches hold inputs, target; give them 'domain'"):
        fit(tmp_path, DomainWeights(), Data(domain=False))
    with pytest.raises(ValueError, match="^DomainWeights: every=0"):
        DomainWeights(every=0)
