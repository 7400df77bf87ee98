"""Batches are attacked before the objective sees them, and nothing else changes."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_losses import MART, TRADES, CrossEntropy, DROInstanceReweighting, Objective, Term
from lightning_losses.attacks import FGSM, PGD
from lightning_losses.modules.adversarial_classifier import AdversarialClassifier

INPUTS = torch.rand(12, 6, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(12) % 3
BATCH = {"inputs": INPUTS[:4], "target": TARGET[:4]}
ATTACKED = {"logits": "attacked_logits"}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


def plain():
    return Objective({"ce": Term(CrossEntropy(), inputs=ATTACKED)})


def module(objective, attack=None, **options):
    return AdversarialClassifier(
        attack or PGD(epsilon=0.1, step_size=0.05, steps=3), network=network(), objective=objective, num_classes=3,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1), **options
    )  # fmt: skip


def trainer(**options):
    return L.Trainer(
        **{"max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_checkpointing": False, **options},
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def loader(rows=12):
    data = [
        {"inputs": x, "target": y, "index": torch.tensor(i)}
        for i, (x, y) in enumerate(zip(INPUTS[:rows], TARGET, strict=False))
    ]
    return DataLoader(data, batch_size=4)


def test_the_objective_sees_what_the_attack_gives():
    attack = PGD(epsilon=0.1, step_size=0.05, steps=3, random_start="none")
    step = module(plain(), attack)
    attacked = attack(step.network, INPUTS[:4], TARGET[:4])
    torch.manual_seed(1)
    found = step.training_step(BATCH, 0)
    fresh = module(plain(), attack)
    torch.manual_seed(1)
    expected = CrossEntropy()(fresh(attacked), TARGET[:4])
    assert torch.equal(found["loss"], expected)
    # No term takes clean logits; clean inputs did not run, and the batch norm saw one batch.
    assert torch.equal(found["attacked_inputs"], attacked) and step.network[1].num_batches_tracked == 1


def test_losses_of_both_logits_get_both():
    step = module(Objective({"trades": TRADES()}), PGD(epsilon=0.1, loss="kl_divergence", random_start="normal"))
    offered = step.objective_tensors({**BATCH, "logits": step(BATCH["inputs"])})
    assert not torch.equal(offered["attacked_inputs"], INPUTS[:4])
    assert (offered["attacked_inputs"] - INPUTS[:4]).abs().max() <= 0.1 + 1e-6
    value = step.training_step(BATCH, 0)["loss"]
    value.backward()
    assert value > 0 and step.network[0].weight.grad.abs().sum() > 0


def test_nothing_is_attacked_that_nobody_asked_for():
    def refuse(*given):
        raise AssertionError("attacked")

    step = module(Objective({"ce": CrossEntropy()}))
    step.attack = refuse
    assert step.training_step(BATCH, 0)["loss"] > 0


def test_ignored_samples_stay_as_they_are():
    ignoring = Objective({"ce": Term(CrossEntropy(ignore_index=2), inputs=ATTACKED)})
    found = module(ignoring).training_step(BATCH, 0)["attacked_inputs"]
    moved = (found != INPUTS[:4]).any(dim=1)
    assert moved.tolist() == (TARGET[:4] != 2).tolist()


@pytest.mark.parametrize("indexed", [True, False])
def test_starts_are_drawn_anew_for_each_batch_and_again_for_the_same(indexed):
    seen = []

    class Recording(AdversarialClassifier):
        def training_step(self, batch, batch_idx):
            given = batch if indexed else {name: part for name, part in batch.items() if name != "index"}
            step = super().training_step(given, batch_idx)
            seen.append(step["attacked_inputs"] - batch["inputs"])
            return step

    def run(seed):
        seen.clear()
        attack = PGD(epsilon=0.1, step_size=0.0, steps=1, bounds=None, seed=seed)
        one = Recording(attack, network=network(), objective=plain(), num_classes=3)
        trainer().fit(one, loader(), loader())
        return torch.stack(seen)

    first, again, other = run(0), run(0), run(1)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len({tuple(noise.flatten().tolist()) for noise in first}) == len(first) == 6


def test_a_resumed_run_draws_what_an_uninterrupted_one_does(tmp_path):
    def fit(epochs, checkpoint=None):
        one = module(Objective({"mart": MART()}))
        # Dropout's random state is no business of the attack's.
        one.network[2] = nn.Identity()
        run = trainer(max_epochs=epochs)
        run.fit(one, loader(), loader(), ckpt_path=checkpoint)
        run.save_checkpoint(tmp_path / "last.ckpt")
        return one.network.state_dict()

    whole = fit(2)
    fit(1)
    resumed = fit(2, tmp_path / "last.ckpt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_accumulated_batches_have_the_gradient_of_one():
    def gradient(batch_size, accumulated):
        one = module(Objective({"mart": MART()}), FGSM(epsilon=0.1))
        one.network[1], one.network[2] = nn.Identity(), nn.Identity()
        data = loader().dataset
        # The last batch is smaller.
        run = trainer(max_epochs=1, accumulate_grad_batches=accumulated)
        run.fit(one, DataLoader(data, batch_size=batch_size), loader())
        return one.network[0].weight.detach()

    torch.testing.assert_close(gradient(5, 3), gradient(12, 1))


def test_validation_attacks_too_and_each_batch_from_its_own_start():
    seen = []

    class Validated(AdversarialClassifier):
        def validation_step(self, batch, batch_idx):
            attacked = self.attacked_inputs(batch)
            seen.append(attacked - batch["inputs"])
            return self.apply_objective(logits=self(batch["inputs"]), **batch)

        test_step = validation_step

    attack = PGD(epsilon=0.1, step_size=0.0, steps=1, bounds=None)
    one = Validated(attack, network=network(), objective=plain(), num_classes=3)
    data = DataLoader([{"inputs": x, "target": y} for x, y in zip(INPUTS, TARGET, strict=True)], batch_size=4)
    trainer(num_sanity_val_steps=2, max_epochs=1).fit(one, data, data)
    assert len({tuple(noise.flatten().tolist()) for noise in seen[2:]}) == 3
    seen.clear()
    trainer().test(one, data, verbose=False)
    assert len({tuple(noise.flatten().tolist()) for noise in seen}) == 3


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "32-true"])
def test_every_precision_trains(precision):
    one = module(Objective({"trades": TRADES()}), PGD(epsilon=0.1, steps=2, loss="kl_divergence"))
    trainer(max_epochs=1, precision=precision).fit(one, loader(8), loader(8))
    assert all(parameter.isfinite().all() for parameter in one.parameters())


def test_the_attack_learns_how_the_data_were_normalised():
    class Data(L.LightningDataModule):
        def __init__(self, mean, deviation):
            super().__init__()
            self.input_mean, self.input_deviation = torch.tensor([mean]), torch.tensor([deviation])

        def train_dataloader(self):
            data = [
                {"inputs": (x - self.input_mean) / self.input_deviation, "target": y}
                for x, y in zip(INPUTS, TARGET, strict=True)
            ]
            return DataLoader(data, batch_size=4)

        val_dataloader = train_dataloader

    one = module(plain())
    for mean, deviation in ((0.5, 0.25), (0.25, 0.125)):
        trainer(max_epochs=1).fit(one, datamodule=Data(mean, deviation))
        assert one.attack.mean == (mean,) and one.attack.std == (deviation,)


def test_doubly_robust_training_weighs_the_samples_that_attacks_harm_most():
    term = Term(DROInstanceReweighting(r=0.5), inputs=ATTACKED)
    step = module(Objective({"dro": term}), FGSM(epsilon=0.1)).eval()
    found = step.training_step(BATCH, 0)
    logits = found["logits"].detach().requires_grad_()
    losses = torch.nn.functional.cross_entropy(logits, TARGET[:4], reduction="none")
    weighed = ((losses / 0.5).softmax(dim=0).detach() * losses).sum()
    value = DROInstanceReweighting(r=0.5)(logits, TARGET[:4])
    torch.testing.assert_close(found["loss"], value)
    torch.testing.assert_close(*(torch.autograd.grad(one, logits)[0] for one in (value, weighed)))


@pytest.mark.parametrize(
    ("change", "tensors", "told"),
    [
        (lambda one: setattr(one, "attack", None), BATCH, "the objective takes attacked logits, and no attack is set"),
        (lambda one: None, {"logits": torch.zeros(2, 3)}, "an attack needs 'inputs' and 'target'; the step offered"),
    ],
    ids=["no attack", "no inputs"],
)
def test_what_is_missing_is_told(change, tensors, told):
    one = module(plain())
    change(one)
    with pytest.raises(ValueError, match=f"^AdversarialClassifier: {told}"):
        one.apply_objective(**tensors)
