"""The interventions in a trainer: their order in the step, many processes, and going on from a checkpoint."""

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.precision import MixedPrecision

from lightning_losses.callbacks.interventions.dynamic_ema import DynamicEMA
from lightning_losses.callbacks.interventions.grokfast import Grokfast
from lightning_losses.callbacks.interventions.orthogonal_gradient import OrthogonalGradient
from lightning_losses.callbacks.interventions.weight_norm_projection import WeightNormProjection
from lightning_losses.optim.grokfast import GrokfastEMA
from lightning_losses.optim.orthogonal_gradient import orthogonalize_gradients_
from lightning_losses.optim.weight_norm import weight_norm
from tests.callbacks.training import adamw, assert_close, batches, differs, network, sgd, train

INTERVENTIONS = {
    "perp": lambda: [OrthogonalGradient()],
    "perp_model": lambda: [OrthogonalGradient(scope="model", rescale=False, exclude=["*bias"])],
    "ema": lambda: [Grokfast("ema", alpha=0.8, lamb=1.0)],
    "ma": lambda: [Grokfast("ma", lamb=1.0, window_size=2)],
    "norm": lambda: [WeightNormProjection(scale=0.8)],
    "all": lambda: [Grokfast("ma", lamb=1.0, window_size=3), OrthogonalGradient(), WeightNormProjection()],
}
each = pytest.mark.parametrize("name", list(INTERVENTIONS))


def project(named):
    weights = [p for _, p in named]
    orthogonalize_gradients_(weights, [p.grad for p in weights], rescale=False)


def amplify():
    grokfast = GrokfastEMA(0.8, 1.0)
    return lambda named: grokfast.filter_({name: p.grad for name, p in named})


@pytest.mark.parametrize(
    ("callback", "by_hand"),
    [
        (lambda: [OrthogonalGradient(rescale=False)], lambda: project),
        (lambda: [Grokfast("ema", alpha=0.8, lamb=1.0)], amplify),
    ],
    ids=["perp", "grokfast"],
)
def test_it_acts_once_a_step_after_accumulation_and_before_clipping(tmp_path, callback, by_hand):
    got = train(tmp_path, callback, accumulate_grad_batches=2, gradient_clip_val=0.2)
    module, change = network(), by_hand()
    optimizer = sgd(module.parameters())
    data = batches()
    for first, second in zip(data[::2], data[1::2], strict=True):
        optimizer.zero_grad()
        for inputs, target in (first, second):
            (F.cross_entropy(module(inputs), target) / 2).backward()
        change(list(module.named_parameters()))
        torch.nn.utils.clip_grad_norm_(module.parameters(), 0.2)
        optimizer.step()
    # The same operations in the same order, in float32.
    assert_close(got, {f"network.{name}": p.detach() for name, p in module.named_parameters()}, rtol=1e-5, atol=1e-6)
    assert differs(got, train(tmp_path, lambda: [], accumulate_grad_batches=2, gradient_clip_val=0.2))


class Overflow(L.Callback):
    """Makes one step's gradients infinite, as float16 may."""

    def __init__(self, at):
        self.at = at

    def on_after_backward(self, trainer, module):
        if trainer.fit_loop.total_batch_idx == self.at:
            module.network[0].weight.grad[0, 0] = torch.inf


def scaled():
    # The scale doubles with every step: gradients filtered before unscaling would be mixed in unequal units.
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=1)
    return MixedPrecision("16-mixed", device="cpu", scaler=scaler)


@pytest.mark.parametrize("name", ["perp", "ema", "ma", "norm"])
def test_gradients_are_unscaled_before(tmp_path, name):
    got = train(tmp_path, INTERVENTIONS[name], plugins=[scaled()])
    want = train(tmp_path, INTERVENTIONS[name])
    # The forward pass in float16 has 11 bits, through six steps of momentum.
    assert_close(got, want, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", ["ema", "ma"])
def test_a_step_that_overflows_does_not_enter_the_average(tmp_path, name):
    data = batches()
    got = train(tmp_path, lambda: [*INTERVENTIONS[name](), Overflow(at=2)], plugins=[scaled()], data=data)
    want = train(tmp_path, INTERVENTIONS[name], plugins=[scaled()], data=data[:2] + data[3:])
    # The scale is halved by the overflow; powers of two change nothing but float16's underflows.
    assert_close(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("optimizer", [sgd, adamw])
@each
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, name, optimizer):
    data, path = batches(), tmp_path / "half.ckpt"
    train(tmp_path, INTERVENTIONS[name], optimizer=optimizer, data=data[:3], save=path)
    options = {"optimizer": optimizer, "max_epochs": 2}
    resumed = train(tmp_path, INTERVENTIONS[name], data=data[:3], ckpt_path=path, **options)
    whole = train(tmp_path, INTERVENTIONS[name], data=data[:3], **options)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    # A callback that forgot its state would go another way.
    assert differs(whole, train(tmp_path, lambda: [], data=data[:3], **options))


@pytest.mark.parametrize("name", ["ema", "ma", "norm", "dynamic_ema"])
def test_a_second_training_begins_anew(tmp_path, name):
    make = (INTERVENTIONS | {"dynamic_ema": lambda: [DynamicEMA()]})[name]
    callbacks = make()
    train(tmp_path, lambda: callbacks, data=batches(2)[::-1])
    again = train(tmp_path, lambda: callbacks, data=batches(2))
    assert not differs(again, train(tmp_path, make, data=batches(2)))


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@each
def test_two_processes_are_one(tmp_path, name, strategy):
    got = train(tmp_path, INTERVENTIONS[name], strategy=strategy)
    # Sums in another order, in float32, through six steps.
    assert_close(got, train(tmp_path, INTERVENTIONS[name]), rtol=1e-4, atol=1e-5)


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["ema", "ma", "norm"])
def test_a_sharded_run_resumes(tmp_path, name):
    data, path = batches(), tmp_path / "half.ckpt"
    train(tmp_path, INTERVENTIONS[name], strategy="fsdp2", data=data[:3], save=path)
    resumed = train(tmp_path, INTERVENTIONS[name], strategy="fsdp2", data=data[:3], ckpt_path=path, max_epochs=2)
    assert_close(resumed, train(tmp_path, INTERVENTIONS[name], data=data[:3], max_epochs=2), rtol=1e-4, atol=1e-5)


def test_the_projected_norm_holds_after_every_step(tmp_path):
    class Watch(L.Callback):
        norms = []

        def on_train_batch_end(self, trainer, module, *rest):
            self.norms.append(weight_norm(list(module.parameters())).item())

    train(tmp_path, lambda: [WeightNormProjection(scale=2.0), Watch()])
    start = 2 * weight_norm(list(network().parameters())).item()
    # Six digits of float32.
    assert Watch.norms == pytest.approx([start] * 6, rel=1e-6)


class Idle(torch.nn.Sequential):
    """Has a parameter, of one element, that no loss reaches."""

    def __init__(self, *layers):
        super().__init__(*layers)
        self.idle = torch.nn.Parameter(torch.ones(1))


@pytest.mark.parametrize("name", ["perp", "perp_model", "ema", "ma"])
def test_a_parameter_without_gradient_is_left_alone(tmp_path, monkeypatch, name):
    want = train(tmp_path, INTERVENTIONS[name], optimizer=adamw)
    monkeypatch.setattr("tests.callbacks.training.network", lambda: Idle(*network()))
    got = train(tmp_path, INTERVENTIONS[name], optimizer=adamw)
    assert got.pop("network.idle").tolist() == [1]
    assert all(torch.equal(got[key], want[key]) for key in want | got)


class FullyShardedDataParallel(torch.nn.Sequential):
    """Has FSDP1's name, by which it is known; tests/parallel/test_sharding.py has the real one."""


@pytest.mark.parametrize("make", [OrthogonalGradient, Grokfast, WeightNormProjection])
def test_flat_parameters_are_refused(tmp_path, monkeypatch, make):
    monkeypatch.setattr("tests.callbacks.training.network", lambda: FullyShardedDataParallel(*network()))
    with pytest.raises(ValueError, match="wrapped by FSDP1"):
        train(tmp_path, lambda: [make()])


def test_a_fused_optimizer_under_a_loss_scale_is_refused(tmp_path):
    with pytest.raises(ValueError, match="fused=False"):
        train(
            tmp_path,
            INTERVENTIONS["ema"],
            plugins=[scaled()],
            optimizer=lambda parameters: torch.optim.AdamW(parameters, fused=True),
        )


@pytest.mark.parametrize("make", [OrthogonalGradient, Grokfast, WeightNormProjection])
def test_patterns_that_match_nothing_are_refused(tmp_path, make):
    with pytest.raises(ValueError, match="encoder"):
        train(tmp_path, lambda: [make(include=["encoder.*"])])


@pytest.mark.parametrize(
    "make", [lambda: OrthogonalGradient(scope="layer"), lambda: Grokfast("mean"), lambda: WeightNormProjection(scale=0)]
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="came"):
        make()
