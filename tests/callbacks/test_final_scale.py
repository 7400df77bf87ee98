"""What reads or changes gradients finds them at their final scale, however many batches and processes a step has."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

import lightning_losses.callbacks
from lightning_losses.callbacks import (
    ASAM,
    SAM,
    CyclicalSGMCMC,
    GradientConflict,
    Grokfast,
    LearningRateSensitivity,
    NumericsGuard,
    OrthogonalGradient,
    SurrogateGradientNorm,
)
from lightning_losses.callbacks.interventions.second_gradient import SecondGradient
from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.callbacks.monitors.nlm_cosine import NLMCosine
from lightning_losses.callbacks.monitors.parameters import GradientMonitor
from lightning_losses.callbacks.monitors.zero_gradients import ZeroGradients
from tests.distributed.processes import run_on_processes
from tests.distributed.test_callbacks import classes_in
from tests.mixins.test_language_head import Model, batch

pytestmark = pytest.mark.distributed

CALLBACKS = {
    ASAM: lambda: ASAM(rho=0.5),
    CyclicalSGMCMC: lambda: CyclicalSGMCMC(temperature=0.0),
    Grokfast: lambda: Grokfast("ema", alpha=0.5, lamb=2.0),
    LearningRateSensitivity: lambda: LearningRateSensitivity(trial_steps=2, every_n_steps=2),
    NLMCosine: lambda: NLMCosine(every_n_steps=1),
    NumericsGuard: NumericsGuard,
    OrthogonalGradient: OrthogonalGradient,
    SAM: lambda: SAM(rho=0.5),
    ZeroGradients: lambda: ZeroGradients(every_n_steps=1),
}
HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
# A step's rows: as one batch; as two, which keep unequal numbers of tokens; as two of each of two processes.
BATCHES = {
    "whole": [[slice(0, 10)]],
    "accumulated": [[slice(0, 3), slice(3, 10)]],
    "on two processes": [[slice(0, 1), slice(1, 5)], [slice(5, 7), slice(7, 10)]],
}


def test_every_callback_that_hears_of_gradients_is_tried():
    heard = {
        kind
        for kind in classes_in(lightning_losses.callbacks, Callback)
        if any(getattr(kind, hook) is not getattr(Callback, hook) for hook in HOOKS)
    }
    # One looks at each term's gradients, not at their sum, and one needs predictions in the step's output.
    # tests/balancing and tests/callbacks/interventions have these on several batches and processes.
    elsewhere = {GradientMonitor, GradientConflict, SecondGradient, SurrogateGradientNorm}
    assert heard - elsewhere <= CALLBACKS.keys()


def fit(folder, make, parts, **options):
    """The weights after four steps, and what a monitor recorded."""
    processes = len(parts)
    strategy = DDPStrategy(process_group_backend="gloo") if processes > 1 else "auto"
    callbacks = [] if make is None else [make()]
    trainer = L.Trainer(
        accelerator="cpu", devices=processes, strategy=strategy, max_epochs=1, logger=False, callbacks=callbacks,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False, limit_val_batches=0,
        use_distributed_sampler=False, default_root_dir=folder, accumulate_grad_batches=len(parts[0]), **options,
    )  # fmt: skip
    module = Model()
    own = [batch(rows) for rows in parts[trainer.global_rank]]
    loader = DataLoader(4 * own, batch_size=None)
    trainer.fit(module, loader, loader)
    weights = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    values = callbacks[0].values if callbacks and isinstance(callbacks[0], Monitor) else {}
    return weights, {name: torch.tensor(value) for name, value in values.items()}


def test_callbacks_and_clipping_act_alike_on_a_step_of_one_batch_and_of_several_batches_and_processes(tmp_path):
    ways = {kind.__name__: (make, {}) for kind, make in CALLBACKS.items()}
    ways["clipping"] = (None, {"gradient_clip_val": 0.05})
    ways["clipping by value"] = (None, {"gradient_clip_val": 0.005, "gradient_clip_algorithm": "value"})

    def all_ways(parts):
        return {name: fit(tmp_path, make, parts, **options) for name, (make, options) in ways.items()}

    def on_two():
        torch.save(all_ways(BATCHES["on two processes"]), tmp_path / f"{torch.distributed.get_rank()}.pt")

    run_on_processes(on_two, 2)
    found = {f"process {rank}": torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)}
    whole, plain = all_ways(BATCHES["whole"]), fit(tmp_path, None, BATCHES["whole"])
    found["accumulated"] = all_ways(BATCHES["accumulated"])
    for name in ("Grokfast", "OrthogonalGradient", "clipping", "clipping by value"):
        assert (whole[name][0] - plain[0]).abs().max() > 1e-3, name
    for case, ways in found.items():
        for name, (weights, values) in ways.items():
            torch.testing.assert_close(weights, whole[name][0], rtol=1e-4, atol=1e-6, msg=f"{case} {name}")
            if name == "LearningRateSensitivity":
                # It evaluates the batch after its trial, which is a part of the whole one.
                continue
            assert values.keys() == whole[name][1].keys()
            for value, wanted in zip(values.values(), whole[name][1].values(), strict=True):
                torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-5, equal_nan=True, msg=f"{case} {name}")
