"""The lean module: its step is the objective's, its validation the metrics of the whole split.

Several steps on a batch are the steps on as many batches, to the bit.
"""

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils._pytree import tree_leaves

from lightning_losses.callbacks.interventions.grokfast import Grokfast
from lightning_losses.callbacks.interventions.numerics_guard import NumericsGuard
from lightning_losses.callbacks.interventions.orthogonal_gradient import OrthogonalGradient
from lightning_losses.callbacks.interventions.weight_norm_projection import WeightNormProjection
from lightning_losses.callbacks.monitors.grokking_monitor import GrokkingMonitor
from lightning_losses.callbacks.monitors.nlm_cosine import NLMCosine
from lightning_losses.callbacks.monitors.softmax_collapse import SoftmaxCollapse
from lightning_losses.callbacks.monitors.weight_norms import WeightNorms
from lightning_losses.data.lazy_rich_polynomial import LazyRichPolynomial
from lightning_losses.data.modular_arithmetic import ModularArithmetic
from lightning_losses.losses import CrossEntropy
from lightning_losses.modules.full_batch_learner import FullBatchLearner
from lightning_losses.networks.mlp import MLP
from lightning_losses.networks.polynomial_network import PolynomialNetwork
from lightning_losses.objective import Objective, Term
from tests.distributed.processes import run_on_processes


def fit(module, data, folder):
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=4,
        val_check_interval=2,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    trainer.fit(module, data)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


class Recorder(Logger):
    """Keeps what it is told, and at which step."""

    name = version = "recorder"

    def __init__(self):
        super().__init__()
        self.lines = []

    def log_hyperparams(self, params):
        pass

    def log_metrics(self, metrics, step=None):
        self.lines.append((step, dict(metrics)))


class Hooks(L.Callback):
    """Notes which hooks within a step ran, and at which step."""

    def __init__(self):
        self.seen = []

    def on_before_zero_grad(self, trainer, module, optimizer):
        self.seen.append(("zero", trainer.global_step, type(optimizer)))

    def on_before_backward(self, trainer, module, loss):
        self.seen.append(("before", trainer.global_step, loss.item()))

    def on_after_backward(self, trainer, module):
        self.seen.append(("after", trainer.global_step, next(module.parameters()).grad.norm().item()))

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.seen.append(("step", trainer.global_step, type(optimizer)))


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.02)


def lbfgs(parameters):
    return torch.optim.LBFGS(parameters, lr=0.1, max_iter=3)


def monitors():
    batches = [SoftmaxCollapse(every_n_steps=4), WeightNorms(every_n_steps=4), GrokkingMonitor()]
    return [*batches, NLMCosine(every_n_steps=2)]


def trained(
    folder,
    steps_per_batch,
    callbacks=(),
    *,
    optimizer=adamw,
    max_steps=20,
    ckpt_path=None,
    save=None,
    dropout=0.1,
    **options,
):
    """Train for 20 steps in epochs of 12, evaluated every 4."""
    torch.manual_seed(0)
    data = ModularArithmetic(prime=7, steps_per_epoch=12)
    # Dropout: a step that drew other random numbers would show.
    network = torch.nn.Sequential(MLP(14, 20), torch.nn.Dropout(dropout), torch.nn.Linear(20, 7))
    module = FullBatchLearner(network, Objective({"ce": CrossEntropy()}), optimizer, steps_per_batch=steps_per_batch)
    settings = {"accelerator": "cpu", "logger": False, "val_check_interval": 4 // steps_per_batch, **options}
    trainer = L.Trainer(
        max_steps=max_steps, max_epochs=-1, callbacks=list(callbacks), num_sanity_val_steps=0, log_every_n_steps=1,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False, default_root_dir=folder,
        **settings,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=ckpt_path)
    if save is not None:
        trainer.save_checkpoint(save)
    return module, trainer


def assert_same(one, several):
    """Two runs have the same weights, states of the optimizer, step and measurements."""
    (module, trainer), (other, other_trainer) = one, several
    assert trainer.global_step == other_trainer.global_step
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name
    states, its_states = (tree_leaves(of.optimizers[0].state_dict()) for of in (trainer, other_trainer))
    for state, its in zip(states, its_states, strict=True):
        # Under 64-true Adam counts in float64 if its first step is within the context of a training step.
        assert torch.equal(state.double(), its.double()) if isinstance(state, torch.Tensor) else state == its
    for callback, its in zip(trainer.callbacks, other_trainer.callbacks, strict=True):
        if not isinstance(callback, Grokfast | OrthogonalGradient):
            assert callback.state_dict() == its.state_dict()


STEPPING = {
    "nothing": (lambda: [], adamw),
    "momentum": (lambda: [], lambda parameters: torch.optim.SGD(parameters, lr=0.5, momentum=0.9)),
    "several evaluations a step": (lambda: [], lbfgs),
    "monitors": (monitors, adamw),
    "orthogonal gradient": (lambda: [*monitors(), OrthogonalGradient()], adamw),
    "Grokfast, EMA": (lambda: [*monitors(), Grokfast("ema", alpha=0.8, lamb=1.0)], adamw),
    "Grokfast, MA": (lambda: [*monitors(), Grokfast("ma", lamb=1.0, window_size=3)], adamw),
    "projected norm": (lambda: [*monitors(), WeightNormProjection(scale=0.8)], adamw),
    "all": (lambda: [*monitors(), Grokfast(), OrthogonalGradient(), WeightNormProjection()], adamw),
}
stepping = pytest.mark.parametrize(("callbacks", "optimizer"), STEPPING.values(), ids=STEPPING)


@stepping
def test_steps_on_one_batch_are_those_on_several(tmp_path, callbacks, optimizer):
    one, several = (trained(tmp_path, steps, callbacks(), optimizer=optimizer) for steps in (1, 4))
    assert one[1].global_step == 20
    assert_same(one, several)
    assert several[1].fit_loop.total_batch_idx + 1 == 5


def test_the_last_batch_takes_the_steps_that_are_left(tmp_path):
    one, several = (trained(tmp_path, steps, max_steps=14) for steps in (1, 4))
    assert one[1].global_step == 14
    assert_same(one, several)


@stepping
def test_a_run_of_several_steps_resumes_exactly(tmp_path, callbacks, optimizer):
    path = tmp_path / "begun.ckpt"
    # The checkpoint has no random numbers; 8 steps end within an epoch.
    options = {"optimizer": optimizer, "dropout": 0.0}
    trained(tmp_path, 4, callbacks(), max_steps=8, save=path, **options)
    resumed = trained(tmp_path, 4, callbacks(), ckpt_path=path, **options)
    assert_same(trained(tmp_path, 1, callbacks(), **options), resumed)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_hooks_within_a_step_see_every_step(tmp_path, precision):
    (one, _), (several, _) = (
        (hooks := Hooks(), trained(tmp_path, steps, [hooks], precision=precision)) for steps in (1, 4)
    )
    assert [step for hook, step, _ in one.seen if hook == "step"] == list(range(20))
    assert several.seen == one.seen


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "64-true"])
def test_steps_in_other_precisions(tmp_path, precision):
    def options():
        if precision != "16-mixed":
            return {"precision": precision}
        # So large a scale overflows at first: those steps are skipped, and the scale is halved.
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=3)
        return {"plugins": [MixedPrecision("16-mixed", device="cpu", scaler=scaler)]}

    callbacks = lambda: [Grokfast("ema", alpha=0.8, lamb=1.0), OrthogonalGradient()]  # noqa: E731
    one, several = (trained(tmp_path, steps, callbacks(), **options()) for steps in (1, 4))
    assert_same(one, several)
    assert one[1].precision_plugin.state_dict() == several[1].precision_plugin.state_dict()


@pytest.mark.distributed
def test_steps_on_two_processes(tmp_path):
    def run():
        def strategy():
            return {"devices": 2, "strategy": DDPStrategy(start_method="popen", process_group_backend="gloo")}

        callbacks = lambda: [*monitors(), Grokfast(), OrthogonalGradient()]  # noqa: E731
        assert_same(*(trained(tmp_path, steps, callbacks(), **strategy()) for steps in (1, 4)))

    run_on_processes(run, 2)


def test_loggers_are_told_optimizer_steps(tmp_path):
    one, several = (Recorder(), Recorder())
    trained(tmp_path, 1, monitors(), logger=one)
    trained(tmp_path, 4, monitors(), logger=several)
    # A monitor of the gradients comes before those of the batch.
    assert sorted(one.lines, key=str) == sorted(several.lines, key=str)
    assert [step for step, line in several.lines if "val/accuracy" in line] == [3, 7, 11, 15, 19]


def test_a_step_that_a_callback_runs_updates_nothing(tmp_path):
    class Again(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            assert module.training_step(batch, batch_idx)["loss"].requires_grad

        def on_before_zero_grad(self, trainer, module, optimizer):
            self.on_train_batch_start(trainer, module, trainer.datamodule.train, 0)

        on_before_optimizer_step = on_before_zero_grad

    assert_same(*(trained(tmp_path, steps, [Again()], dropout=0.0) for steps in (1, 4)))


def test_without_loggers_callbacks_read_the_same_metrics(tmp_path):
    alone, logged = (trained(tmp_path, 1, logger=logger)[1].callback_metrics for logger in (False, Recorder()))
    assert alone.keys() == logged.keys() == {"val/accuracy", "val/loss"}
    # Lightning multiplies by the number of rows and divides again.
    torch.testing.assert_close(dict(alone), dict(logged), rtol=1e-6, atol=0)


@pytest.mark.parametrize("refused", [{"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}])
def test_what_needs_single_steps_is_refused(tmp_path, refused):
    with pytest.raises(MisconfigurationException, match="not supported for manual optimization"):
        trained(tmp_path, 4, **refused)


def test_a_scheduler_is_refused(tmp_path):
    class Scheduled(FullBatchLearner):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    module = Scheduled(MLP(14, 7), Objective({"ce": CrossEntropy()}), steps_per_batch=2)
    with pytest.raises(ValueError, match="steps_per_batch=2 came with a learning-rate scheduler"):
        fit(module, ModularArithmetic(prime=7, steps_per_epoch=4), tmp_path)


def test_a_guard_that_repeats_batches_is_refused(tmp_path):
    with pytest.raises(ValueError, match="steps_per_batch=4 came with NumericsGuard"):
        trained(tmp_path, 4, [NumericsGuard()])


def test_another_number_of_steps_is_refused_by_training_alone(tmp_path):
    path = tmp_path / "of_1.ckpt"
    trained(tmp_path, 1, max_steps=4, save=path)
    with pytest.raises(ValueError, match="steps_per_batch=2 came for a checkpoint of 1"):
        trained(tmp_path, 2, ckpt_path=path)
    module, trainer = trained(tmp_path, 2, max_steps=4)
    assert trainer.validate(module, trainer.datamodule, ckpt_path=path, verbose=False)[0]["val/loss"] > 0


def test_steps_that_fill_no_batches_are_refused(tmp_path):
    with pytest.raises(ValueError, match="steps_per_epoch=12 came for a module that takes 5 steps"):
        trained(tmp_path, 5, val_check_interval=1)
    with pytest.raises(ValueError, match="steps_per_batch=0"):
        FullBatchLearner(MLP(4, 2), Objective({"ce": CrossEntropy()}), steps_per_batch=0)


def test_classes(tmp_path):
    data = ModularArithmetic(prime=7, steps_per_epoch=4)
    module = FullBatchLearner(MLP(14, 7), Objective({"ce": CrossEntropy()}), sgd)
    logged = fit(module, data, tmp_path)
    with torch.no_grad():
        logits, target = module(data.test["inputs"]), data.test["target"]
    assert logged["val/accuracy"] == pytest.approx((logits.argmax(1) == target).double().mean().item())
    assert logged["val/loss"] == pytest.approx(F.cross_entropy(logits, target).item(), rel=1e-5)


def test_regression(tmp_path):
    data = LazyRichPolynomial(dimension=5, train_samples=20, test_samples=30, steps_per_epoch=4)
    objective = Objective({"mse": Term(torch.nn.MSELoss(), inputs={"input": "logits"})})
    module = FullBatchLearner(PolynomialNetwork(5), objective, sgd, measure="loss")
    logged = fit(module, data, tmp_path)
    with torch.no_grad():
        error = F.mse_loss(module(data.test["inputs"]), data.test["target"]).item()
    assert logged == {"val/loss": pytest.approx(error, rel=1e-5)}


def test_an_unknown_measure_is_refused():
    with pytest.raises(ValueError, match="measure='recall'"):
        FullBatchLearner(MLP(4, 2), Objective({"ce": CrossEntropy()}), measure="recall")


@pytest.mark.parametrize("steps", [1.5, 0, True])
def test_steps_that_are_no_whole_number_are_refused(steps):
    with pytest.raises(ValueError, match=f"^full_batch_learner: steps_per_batch={steps} came; give a whole number"):
        FullBatchLearner(MLP(4, 2), Objective({"ce": CrossEntropy()}), steps_per_batch=steps)


def test_attributes_are_a_modules():
    module = FullBatchLearner(MLP(14, 7), Objective({"ce": CrossEntropy()}), sgd)
    module.gain = torch.nn.Parameter(torch.ones(1))
    module._current_fx_name = "training_step"
    assert "gain" in dict(module.named_parameters()) and module._current_fx_name == "training_step"
