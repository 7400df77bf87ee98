"""Trials of other learning rates: closed forms, that they repeat the run and leave it alone, going on, refusals."""

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils._pytree import tree_leaves

from lightning_losses.callbacks.interventions.grokfast import Grokfast
from lightning_losses.callbacks.interventions.orthogonal_gradient import OrthogonalGradient
from lightning_losses.callbacks.interventions.weight_norm_projection import WeightNormProjection
from lightning_losses.callbacks.monitors.learning_rate_sensitivity import LearningRateSensitivity
from tests.callbacks.training import PerProcess, Tiny, adamw, batches, train, trainer

MULTIPLES = (0.5, 1.0, 4.0)


def monitor(**options):
    return LearningRateSensitivity(MULTIPLES, **{"trial_steps": 3, "every_n_steps": 4, **options})


class Busy(Tiny):
    """With all that a copy must repeat: dropout, statistics, a schedule, counters, logs."""

    def __init__(self, optimizer=adamw):
        super().__init__(optimizer)
        torch.manual_seed(5)
        self.network = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Dropout(0.3), nn.Linear(7, 3))
        self.calls = {"steps": 0}
        self.losses = []

    def training_step(self, batch, batch_idx):
        self.calls["steps"] += 1
        output = super().training_step(batch, batch_idx)
        self.log("train/loss", output["loss"], on_step=True, on_epoch=True)
        self.losses.append((self.trainer.global_step, output["loss"].item()))
        return output

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def fit(folder, callbacks, module=None, epochs=2, ckpt_path=None, **options):
    torch.manual_seed(1)
    fitter, module = trainer(folder, callbacks, max_epochs=epochs, **options), module or Busy()
    fitter.fit(module, PerProcess(batches(9)), ckpt_path=ckpt_path)
    return fitter, module


class Quadratic(L.LightningModule):
    """Half the square of two weights, of curvature 1 and 4."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 1.0]))

    def training_step(self, batch, batch_idx):
        return 0.5 * (torch.tensor([1.0, 4.0]) * self.weight.square()).sum()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_on_a_quadratic_the_losses_are_powers(tmp_path):
    watch = LearningRateSensitivity([0.1, 1, 3, 6], trial_steps=3, every_n_steps=4)
    fit(tmp_path, [watch], Quadratic(), epochs=1)
    assert watch.steps == [0, 4]
    for at, step in enumerate(watch.steps):
        start = [0.9**step, 0.6**step]

        def loss(multiple, steps=3, start=start):
            factors = (1 - 0.1 * multiple, 1 - 0.4 * multiple)
            return sum(0.5 * a * (w * f**steps) ** 2 for a, w, f in zip((1, 4), start, factors, strict=True))

        before = loss(1, steps=0)
        assert watch.values["before"][at] == pytest.approx(before, rel=1e-5)
        losses = {multiple: loss(multiple) for multiple in watch.multiples}
        for multiple, expected in losses.items():
            assert watch.values[f"loss/{multiple:g}"][at] == pytest.approx(expected, rel=1e-5)
        # Six times the learning rate is beyond 2 / 4: it ends above where it began, if there is enough of that weight.
        assert losses[6.0] > before or step > 0
        reached = [min(loss, before) for loss in losses.values()]
        assert watch.values["sensitivity"][at] == pytest.approx(sum(reached) / 4 - min(reached), rel=1e-5)
        assert watch.values["best_multiple"][at] == min(losses, key=losses.get)


@pytest.mark.parametrize(
    ("callbacks", "options"),
    [
        (list, {"gradient_clip_val": 0.1}),
        (list, {"accumulate_grad_batches": 2}),
        (lambda: [Grokfast(), OrthogonalGradient()], {}),
    ],
    ids=["clipped", "accumulated", "changed gradients"],
)
def test_the_run_is_the_trial_with_its_own_learning_rate(tmp_path, callbacks, options):
    watch = monitor()
    _, module = fit(tmp_path, [watch, *callbacks()], **options)
    # Of several batches of a step, the first one's.
    losses = dict(reversed(module.losses))
    assert watch.steps[:2] == [0, 4]
    for at, step in enumerate(watch.steps):
        assert watch.values["loss/1"][at] == losses[step + 3] != watch.values["loss/4"][at]


def test_with_it_everything_is_as_without(tmp_path):
    logged = {}
    for name, watch in (("with", [monitor(folder=tmp_path)]), ("without", [L.Callback()])):
        logger = CSVLogger(tmp_path / name, name="", version="")
        fitter, module = fit(tmp_path, watch, logger=logger)
        optimizer = fitter.optimizers[0].state_dict()
        logged[name] = module.state_dict(), optimizer, module.calls, module.losses, torch.get_rng_state()
        metrics = {key: value.item() for key, value in fitter.callback_metrics.items()}
        logged[name] += (metrics, fitter.global_step)
    (state, optimizer, *rest), (other, plain, *same) = logged["with"], logged["without"]
    assert all(torch.equal(state[key], other[key]) for key in state) and len(state) == 9
    for one, two in zip(optimizer["state"].values(), plain["state"].values(), strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert optimizer["param_groups"] == plain["param_groups"]
    assert torch.equal(rest.pop(2), same.pop(2)) and rest == same
    lines = (tmp_path / "with" / "metrics.csv").read_text()
    assert "learning_rate_sensitivity/best_multiple" in lines and "learning_rate_sensitivity/loss/0.5" in lines
    assert (tmp_path / "learning_rate_sensitivity.png").stat().st_size > 10_000


class Reseed(L.Callback):
    """An epoch's random numbers are those of the epoch, as the recipes' `EpochSeed` has it."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 0:
            torch.manual_seed(trainer.current_epoch)


# Of nine steps the last one is within a window with every 4, and with every 6; with every 5 it has just been closed.
@pytest.mark.parametrize("every", [4, 5, 6])
def test_a_resumed_run_measures_what_an_uninterrupted_one_does(tmp_path, every):
    whole, half, resumed = (monitor(every_n_steps=every) for _ in range(3))
    fit(tmp_path, [Reseed(), whole, Grokfast()])
    fitter, _ = fit(tmp_path, [Reseed(), half, Grokfast()], epochs=1)
    assert (half.state_dict()["window"] is None) == (every == 5)
    states = [half.state_dict() for _ in range(2)]
    one, other = ({t.data_ptr() for t in tree_leaves(state) if torch.is_tensor(t)} for state in states)
    assert one.isdisjoint(other) and bool(one) == (every != 5)
    fitter.save_checkpoint(tmp_path / "half.ckpt")
    fit(tmp_path, [Reseed(), resumed, Grokfast()], ckpt_path=tmp_path / "half.ckpt")
    assert resumed.steps == whole.steps and resumed.values == whole.values and whole.steps[-1] > 9


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_processes_agree_with_one(tmp_path, strategy):
    def make():
        class Keep(LearningRateSensitivity):
            def on_fit_end(self, trainer, module):
                torch.save((self.steps, self.values), tmp_path / f"values{trainer.global_rank}.pt")

        return [Keep(MULTIPLES, trial_steps=2, every_n_steps=2), Grokfast()]

    train(tmp_path, make, optimizer=adamw)
    steps, alone = torch.load(tmp_path / "values0.pt")
    train(tmp_path, make, strategy=strategy, optimizer=adamw)
    for rank in (0, 1):
        found, values = torch.load(tmp_path / f"values{rank}.pt")
        assert found == steps == [0, 2] and values.keys() == alone.keys()
        for name, expected in alone.items():
            # Averaged gradients differ in their last bits, which AdamW's first steps amplify.
            assert values[name] == pytest.approx(expected, rel=1e-4, abs=1e-5), name


def test_a_loss_that_is_not_finite_counts_as_no_gain(tmp_path):
    class Fragile(Quadratic):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss + (torch.inf if self.weight.abs().max() > 5 else 0)

    watch = LearningRateSensitivity([1, 100], trial_steps=1, every_n_steps=4, folder=tmp_path)
    fit(tmp_path, [watch], Fragile(), epochs=1)
    assert watch.values["loss/100"][0] == float("inf") and watch.values["best_multiple"] == [1, 1]
    before, after = watch.values["before"][0], watch.values["loss/1"][0]
    assert watch.values["sensitivity"][0] == pytest.approx((before - after) / 2)
    worse = LearningRateSensitivity([10, 100], trial_steps=1, every_n_steps=4)
    fit(tmp_path, [worse], Fragile(), epochs=1)
    assert worse.values["best_multiple"][0] == 0 and worse.values["sensitivity"][0] == 0


class Manual(Tiny):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class OwnStep(Tiny):
    def optimizer_step(self, *given, **options):
        super().optimizer_step(*given, **options)


@pytest.mark.parametrize(
    ("module", "others", "reason"),
    [
        (Manual, [], "optimizes manually"),
        (OwnStep, [], "has an optimizer_step of its own"),
        (Tiny, [WeightNormProjection()], "trains with WeightNormProjection"),
    ],
)
def test_what_can_not_be_repeated_is_refused(tmp_path, module, others, reason):
    with pytest.raises(ValueError, match=f"learning_rate_sensitivity: {module.__name__} {reason}, which can't be"):
        fit(tmp_path, [monitor(), *others], module())


def test_a_scaled_loss_is_refused(tmp_path):
    fitter = trainer(tmp_path, [monitor()])
    # As float16 AMP has one.
    fitter.precision_plugin.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(ValueError, match="Tiny trains under float16 AMP, which can't be"):
        fitter.fit(Tiny(), PerProcess(batches()))


def test_an_optimizer_of_other_parameters_is_refused(tmp_path):
    class Held(Tiny):
        def __init__(self):
            super().__init__()
            self.held = [*self.network.parameters()]
            self.make = lambda parameters=tuple(self.held): torch.optim.SGD(parameters, lr=0.1)

        def configure_optimizers(self):
            return self.make()

    with pytest.raises(ValueError, match="holds parameters of the original; make it of self.parameters"):
        fit(tmp_path, [monitor()], Held())


@pytest.mark.parametrize(
    "wrong",
    [
        {"multiples": [1]},
        {"multiples": [1, 1]},
        {"multiples": [0, 1]},
        {"multiples": [1, float("nan")]},
        {"multiples": [1, float("inf")]},
        {"trial_steps": 0},
        {"trial_steps": 9, "every_n_steps": 8},
        {"every_n_steps": 0},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="came"):
        LearningRateSensitivity(**wrong)
