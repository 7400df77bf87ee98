"""SGD that samples: its schedule, its noise, what it keeps, and going on from a checkpoint."""

import math
from types import SimpleNamespace

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from lightning_losses.callbacks import CyclicalSGMCMC
from tests.callbacks.training import (
    PerProcess,
    Tiny,
    adamw,
    assert_close,
    batches,
    differs,
    network,
    sgd,
    train,
    trainer,
)


class Quadratic(L.LightningModule):
    """Weights whose posterior at temperature 1 has a variance of 1 / curvature in each direction."""

    def __init__(self, momentum, curvature):
        super().__init__()
        self.network = nn.ParameterDict({"w": nn.Parameter(torch.zeros(4000))})
        self.momentum, self.curvature = momentum, curvature

    def training_step(self, batch, batch_idx):
        return 0.5 * self.curvature * (self.network["w"] ** 2).sum()

    def train_dataloader(self):
        return torch.utils.data.DataLoader(range(150), batch_size=None)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=self.momentum)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_the_stationary_variance_is_the_posteriors(tmp_path, momentum):
    module, temperature, samples = Quadratic(momentum, curvature=2.0), 3.0, 5
    sampler = CyclicalSGMCMC(cycles=1, temperature=temperature, sampling_share=1.0, samples=samples)
    trainer(tmp_path, [sampler]).fit(module)
    weights = module.network["w"].detach()
    # The loss is a mean over 5 samples. 4000 draws have an error of 2 %, and steps of 0.1 another few.
    assert weights.var().item() == pytest.approx(temperature / samples / 2.0, rel=0.12)
    assert abs(weights.mean().item()) < 4 * math.sqrt(0.3 / 4000)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_new_cycle_goes_on_with_the_velocity_of_the_last(temperature):
    sampler, weight = CyclicalSGMCMC(cycles=3, temperature=temperature), nn.Parameter(torch.zeros(2))
    last, sampler._rates = sampler.learning_rate(0.1, 49, 150), [0.1]
    optimizer = torch.optim.SGD([weight], lr=last, momentum=0.9)
    optimizer.state[weight]["momentum_buffer"] = torch.tensor([1.0, -2.0])
    sampler.on_before_optimizer_step(SimpleNamespace(global_step=50, estimated_stepping_batches=150), None, optimizer)
    velocity = optimizer.param_groups[0]["lr"] * optimizer.state[weight]["momentum_buffer"]
    # At 0 it is SGD, whose buffer stays.
    torch.testing.assert_close(velocity, (last if temperature else 0.1) * torch.tensor([1.0, -2.0]))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_at_temperature_0_it_is_sgd_with_the_schedule(tmp_path, momentum):
    plain = lambda parameters: torch.optim.SGD(parameters, lr=0.5, momentum=momentum)  # noqa: E731
    got = train(
        tmp_path, lambda: [CyclicalSGMCMC(cycles=2, temperature=0.0, samples=48)], optimizer=plain, max_epochs=2
    )
    want, data = network(), batches()
    optimizer = plain(want.parameters())
    for step in range(12):
        optimizer.param_groups[0]["lr"] = 0.5 / 2 * (math.cos(math.pi * (step % 6) / 6) + 1)
        optimizer.zero_grad()
        inputs, target = data[step % 6]
        F.cross_entropy(want(inputs), target).backward()
        optimizer.step()
    assert all(torch.equal(got[f"network.{name}"], p) for name, p in want.named_parameters())


def fit(folder, **options):
    sampler, module = CyclicalSGMCMC(cycles=3, temperature=1.0, samples=48), Tiny()
    trainer(folder, [sampler], **options).fit(module, PerProcess(batches()))
    return sampler, module


def test_each_cycle_ends_with_weights_that_predict(tmp_path):
    sampler, module = fit(tmp_path, max_epochs=2)
    assert len(sampler.kept_weights) == 3
    # The last are those of the trained network.
    assert all(torch.equal(sampler.kept_weights[-1][name], p) for name, p in module.network.state_dict().items())
    assert differs(sampler.kept_weights[0], sampler.kept_weights[1])
    inputs = torch.randn(4, 5, requires_grad=True)
    ensemble = sampler.ensemble(module.network)
    twin, want = network(), 0.0
    for weights in sampler.kept_weights:
        twin.load_state_dict(weights)
        want = want + twin(inputs).softmax(dim=-1) / 3
    torch.testing.assert_close(ensemble(inputs).softmax(dim=-1), want, rtol=1e-5, atol=1e-6)
    # For attacks: gradients reach inputs.
    assert torch.autograd.grad(ensemble(inputs).sum(), inputs)[0].isfinite().all()


def sampling():
    return [CyclicalSGMCMC(cycles=2, temperature=5.0, sampling_share=0.7, samples=48)]


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    data, path = batches(), tmp_path / "half.ckpt"
    # Both plan six steps; the first is stopped after three.
    whole = sampling()
    train(tmp_path, lambda: whole, data=data[:3], max_epochs=2)
    module, first = Tiny(), sampling()

    class Stop(L.Callback):
        def on_train_epoch_end(self, fitter, module):
            fitter.should_stop = True

    fitter = trainer(tmp_path, [*first, Stop()], max_epochs=2)
    fitter.fit(module, PerProcess(data[:3]))
    fitter.save_checkpoint(path)
    resumed = sampling()
    train(tmp_path, lambda: resumed, data=data[:3], ckpt_path=path, max_epochs=2)
    assert len(whole[0].kept_weights) == 2
    for got, want in zip(resumed[0].kept_weights, whole[0].kept_weights, strict=True):
        assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_are_one(tmp_path, strategy):
    got = train(tmp_path, sampling, strategy=strategy)
    assert_close(got, train(tmp_path, sampling), rtol=1e-4, atol=1e-5)
    assert differs(got, train(tmp_path, lambda: [CyclicalSGMCMC(cycles=2, temperature=0.0)]))


@pytest.mark.parametrize(
    ("optimizer", "options", "words"),
    [
        (adamw, {}, "use torch.optim.SGD"),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), {}, "use plain momentum"),
        (sgd, {"max_steps": 1}, "1 steps came for 4 cycles"),
        (sgd, {}, "give samples="),
    ],
)
def test_what_does_not_sample_is_refused(tmp_path, optimizer, options, words):
    with pytest.raises(ValueError, match=words):
        train(tmp_path, lambda: [CyclicalSGMCMC()], optimizer=optimizer, **options)


def test_several_optimizers_and_groups_added_later_are_refused(tmp_path):
    class Both(Tiny):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self):
            return [sgd(self.network[0].parameters()), sgd(self.network[2].parameters())]

    class Later(Tiny):
        def configure_optimizers(self):
            return sgd(self.network[2].parameters())

        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.optimizers().add_param_group({"params": [*self.network[0].parameters()]})

    for module, words in ((Both(), "2 optimizers came"), (Later(), "has 2 groups of parameters, and began with 1")):
        with pytest.raises(ValueError, match=words):
            trainer(tmp_path, sampling(), max_epochs=2).fit(module, PerProcess(batches()))


def test_weights_that_do_not_learn_have_no_noise(tmp_path):
    def frozen(parameters):
        first, *others = parameters
        groups = [{"params": [first], "lr": 0.0}, {"params": others}]
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9)

    got = train(tmp_path, sampling, optimizer=frozen)
    assert torch.equal(got["network.0.weight"], network()[0].weight)
    assert all(weight.isfinite().all() for weight in got.values())


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_amp_skips_has_no_noise_and_may_end_a_cycle(tmp_path, fused):
    class Overflows(Tiny):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)["loss"]
            if batch_idx == 2:
                self.before = [p.detach().clone() for p in self.parameters()]
                loss = loss * torch.tensor(1e38) * 1e38
            return loss

        def on_train_batch_end(self, outputs, batch, batch_idx):
            if batch_idx == 2:
                self.same = all(map(torch.equal, self.before, self.parameters()))

    precision = MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu", init_scale=16.0))
    module = Overflows(lambda parameters: torch.optim.SGD(parameters, lr=0.1, fused=fused))
    callbacks = sampling()
    trainer(tmp_path, callbacks, plugins=[precision]).fit(module, PerProcess(batches()))
    assert module.same and len(callbacks[0].kept_weights) == 2


def test_samples_are_those_that_the_sampler_draws_from(tmp_path):
    data = torch.utils.data.TensorDataset(torch.randn(32, 5), torch.randint(3, (32,)))

    def weights(samples=None):
        sampler = torch.utils.data.SubsetRandomSampler(range(12))
        loader = torch.utils.data.DataLoader(data, batch_size=4, sampler=sampler)
        torch.manual_seed(0)
        module = Tiny()
        trainer(tmp_path, [CyclicalSGMCMC(cycles=1, sampling_share=1.0, samples=samples)]).fit(module, loader, loader)
        return module.state_dict()

    assert not differs(weights(), weights(12)) and differs(weights(), weights(32))


def test_a_second_training_begins_anew(tmp_path):
    (sampler,) = callbacks = sampling()
    for rate in (0.5, 0.1):
        module = Tiny(lambda parameters, rate=rate: torch.optim.SGD(parameters, lr=rate))
        trainer(tmp_path, callbacks).fit(module, PerProcess(batches()))
    fresh = sampling()
    trainer(tmp_path, fresh).fit(twin := Tiny(module.make_optimizer), PerProcess(batches()))
    assert len(sampler.kept_weights) == 2 and not differs(module.state_dict(), twin.state_dict())
