"""The dynamic average in a trainer: once a step, at the end in the weights' place, and going on from a checkpoint."""

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.precision import MixedPrecision

from lightning_losses.callbacks.interventions.dynamic_ema import DynamicEMA
from lightning_losses.optim.dynamic_ema import DynamicAverage
from tests.callbacks.training import PerProcess, Tiny, assert_close, batches, network, sgd, train, trainer


def by_hand(include=("",), clip=0.2):
    """The average after a training that accumulates two batches and clips."""
    module, average = network(), DynamicAverage()
    optimizer, data = sgd(module.parameters()), batches()
    named = {f"network.{name}": p for name, p in module.named_parameters() if any(part in name for part in include)}
    for first, second in zip(data[::2], data[1::2], strict=True):
        optimizer.zero_grad()
        for inputs, target in (first, second):
            (F.cross_entropy(module(inputs), target) / 2).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        average.update_({name: p.detach() for name, p in named.items()}, {name: p.grad for name, p in named.items()})
    weights = {f"network.{name}": p.detach().clone() for name, p in module.named_parameters()}
    return weights, {**weights, **average.average}


def test_training_ends_with_the_average_of_the_clipped_steps(tmp_path):
    got = train(tmp_path, lambda: [DynamicEMA()], accumulate_grad_batches=2, gradient_clip_val=0.2)
    weights, want = by_hand()
    assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert max(float((want[name] - weights[name]).abs().max()) for name in want) > 1e-3


def test_chosen_tensors_are_averaged_alone(tmp_path):
    callback = DynamicEMA(include=["*.0.weight"])
    got = train(tmp_path, lambda: [callback], accumulate_grad_batches=2, gradient_clip_val=0.2)
    assert_close(got, by_hand(include=("0.weight",))[1], rtol=1e-5, atol=1e-6)
    assert list(callback.average.average) == ["network.0.weight"]


class Watch(L.Callback):
    """Keeps the weights of each validation."""

    def __init__(self):
        self.seen = []

    def on_validation_start(self, trainer, module):
        self.seen.append(module.network[0].weight.detach().clone())


def test_training_itself_is_not_changed(tmp_path):
    seen = []
    for callbacks in ([], [DynamicEMA()]):
        watch, module = Watch(), Tiny()
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=2, callbacks=[*callbacks, watch], enable_model_summary=False, **options
        )
        loader = torch.utils.data.DataLoader(batches(), batch_size=None)
        trainer.fit(module, loader, loader)
        seen.append(watch.seen)
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_amp_skips_does_not_count(tmp_path, fused):
    class Overflows(Tiny):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)["loss"]
            return loss * torch.tensor(1e38) * 1e38 if batch_idx == 1 else loss

    callback, module = DynamicEMA(), Overflows(lambda parameters: torch.optim.SGD(parameters, lr=0.5, fused=fused))
    precision = MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu", init_scale=16.0))
    trainer(tmp_path, [callback], plugins=[precision]).fit(module, PerProcess(batches(2)))
    assert all(gradient.isfinite().all() for gradient in callback.average._gradients.values())


def test_hooks_are_gone_after_training(tmp_path):
    callback = DynamicEMA()
    train(tmp_path, lambda: [callback])
    assert callback._handles == []


def test_the_state_survives_a_checkpoint(tmp_path):
    first, second = DynamicEMA(), DynamicEMA()
    train(tmp_path, lambda: [first])
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second.average.average, first.average.average, rtol=0, atol=0)
    assert first.average.average
