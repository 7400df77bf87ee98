"""Callbacks of a second gradient: against loops written by hand, and what a further pass must leave alone."""

import copy

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_losses import ELR, Brier, CrossEntropy, Objective, Term
from lightning_losses.balancing import PCGrad, ReLoBRaLo, UncertaintyWeighting
from lightning_losses.callbacks import ASAM, SAM, Grokfast, NLMCosine, NumericsGuard, SurrogateGradientNorm
from lightning_losses.modules import Classifier
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
from tests.distributed.processes import run_on_processes


class Rows(L.LightningDataModule):
    """Batches as they are."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.rows, batch_size=None)

    def val_dataloader(self):
        return self.train_dataloader()


METHODS = {
    "sam": lambda: [SAM(rho=0.3)],
    "asam": lambda: [ASAM(rho=0.8)],
    "surrogate": lambda: [SurrogateGradientNorm(weight=0.2, learning_rate=0.1, predictions="logits")],
}
each = pytest.mark.parametrize("name", list(METHODS))


def by_hand(name, module, window, clip=None):
    """Leave the gradients of one step, by another way than the library's."""
    named = dict(module.named_parameters())

    def gradients(function):
        total = sum(function(inputs, target) for inputs, target in window) / len(window)
        return dict(zip(named, torch.autograd.grad(total, list(named.values())), strict=True))

    def loss(inputs, target):
        return F.cross_entropy(module(inputs), target)

    def length(parts):
        return sum((part**2).sum() for part in parts.values()) ** 0.5

    def at(step, function):
        before = copy.deepcopy(module.state_dict())
        with torch.no_grad():
            for key, part in step.items():
                named[key] += part
        found = gradients(function)
        module.load_state_dict(before)
        return found

    first = gradients(loss)
    if name == "surrogate":
        mean = lambda inputs, target: module(inputs).mean()  # noqa: E731
        slope = gradients(mean)
        moved = at({key: 0.2 * part / length(slope) for key, part in slope.items()}, mean)
        factor = by_hand.multiplier * 0.2 / 0.2
        found = {key: first[key] + factor * (moved[key] - slope[key]) for key in named}
        by_hand.multiplier = max(by_hand.multiplier + 0.1 * (0.2 * length(slope).item() - 0.1), 0.0)
    else:
        sizes = {k: named[k].detach().abs() + 0.01 if name == "asam" and "weight" in k else 1.0 for k in named}
        seen = {key: sizes[key] * part for key, part in first.items()}
        rho = 0.3 if name == "sam" else 0.8
        found = at({key: rho * sizes[key] * part / length(seen) for key, part in seen.items()}, loss)
    for key, part in found.items():
        named[key].grad = part
    if clip is not None:
        nn.utils.clip_grad_norm_(module.parameters(), clip)


class Wide(Tiny):
    def __init__(self):
        super().__init__()
        self.double()


@each
@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.2}], ids=["plain", "both"]
)
def test_a_training_is_a_loop_written_by_hand(tmp_path, name, options):
    data = [(inputs.double(), target) for inputs, target in batches()]
    module = Wide()
    trainer(tmp_path, METHODS[name](), **options).fit(module, Rows(data))
    want, by_hand.multiplier = network().double(), 0.2
    optimizer = sgd(want.parameters())
    count = options.get("accumulate_grad_batches", 1)
    for place in range(0, len(data), count):
        by_hand(name, want, data[place : place + count], options.get("gradient_clip_val"))
        optimizer.step()
    got = {key: p.detach() for key, p in module.network.named_parameters()}
    assert_close(got, {key: p.detach() for key, p in want.named_parameters()}, rtol=1e-10, atol=1e-12)
    base = Wide()
    trainer(tmp_path, [], **options).fit(base, Rows(data))
    assert differs(got, {key: p.detach() for key, p in base.network.named_parameters()})


class Noisy(Tiny):
    """Draws, keeps running statistics, has a metric, and logs all it sees."""

    def __init__(self, optimizer=sgd):
        super().__init__(optimizer)
        self.network = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Dropout(0.3), nn.Linear(7, 3))
        self.accuracy = MulticlassAccuracy(3)
        self.idle = nn.Parameter(torch.ones(2))

    def configure_optimizers(self):
        return self.make_optimizer(self.network.parameters())

    def training_step(self, batch, batch_idx):
        batch = {"inputs": batch[0], "target": batch[1]} if isinstance(batch, list | tuple) else batch
        target = batch.pop("target")
        logits = self.network(batch["inputs"] + 0.1 * torch.randn(5))
        loss = F.cross_entropy(logits, target) + self.idle.sum()
        self.accuracy(logits, target)
        self.log_dict({"loss": loss, "accuracy": self.accuracy}, on_step=False, on_epoch=True)
        return {"loss": loss, "logits": logits}


def noisy(folder, callbacks, optimizer=sgd, **options):
    torch.manual_seed(0)
    module = Noisy(optimizer)
    fitter = trainer(folder, callbacks, **options)
    fitter.fit(module, Rows([{"inputs": inputs, "target": target} for inputs, target in batches()]))
    return module, {name: float(value) for name, value in fitter.callback_metrics.items()}, torch.rand(3)


@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 4, "gradient_clip_val": 0.3}], ids=["plain", "both"]
)
@pytest.mark.parametrize("optimizer", [sgd, adamw])
def test_a_radius_of_zero_is_the_optimizer_to_the_bit(tmp_path, optimizer, options):
    got, logged, drawn = noisy(tmp_path, [SAM(rho=0.0)], optimizer, **options)
    want, plainly, then = noisy(tmp_path, [], optimizer, **options)
    assert logged == plainly and torch.equal(drawn, then)
    assert all(torch.equal(value, want.state_dict()[name]) for name, value in got.state_dict().items())
    assert torch.equal(got.idle.grad, want.idle.grad)


@each
def test_a_further_pass_leaves_no_trace(tmp_path, name):
    # With a learning rate of 0 all first passes are at the same weights.
    still = lambda parameters: torch.optim.SGD(parameters, lr=0.0)  # noqa: E731
    callbacks = METHODS[name]()
    got, logged, drawn = noisy(tmp_path, callbacks, still)
    want, plainly, then = noisy(tmp_path, [], still)
    assert logged == plainly and torch.equal(drawn, then)
    assert all(torch.equal(value, want.state_dict()[name]) for name, value in got.state_dict().items())
    assert "log" not in vars(got) and "training_step" not in vars(got.trainer.strategy)


def test_the_ascent_on_a_quadratic_is_along_its_gradient():
    matrix = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=torch.float64)
    weight = torch.tensor([0.5, -2.0], dtype=torch.float64)
    step = SAM(rho=0.7).ascent({"w": weight}, {"w": matrix @ weight})["w"]
    torch.testing.assert_close(step, 0.7 * F.normalize(matrix @ weight, dim=0), rtol=1e-10, atol=0)


def test_small_numbers_in_half_precision_climb():
    weight, gradient = torch.full((4,), 0.01, dtype=torch.float16), torch.full((4,), 1e-5, dtype=torch.float16)
    step = ASAM(eta=0.0).ascent({"weight": weight}, {"weight": gradient})["weight"]
    # A distance of ρ in units of the weights, in four equal parts.
    torch.testing.assert_close(step, torch.full((4,), 0.5 * 0.01 / 2), rtol=1e-3, atol=0)


class Experts(Tiny):
    """Which of two weights it uses depends on the sign of a third."""

    def __init__(self):
        super().__init__(lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        self.network = nn.ParameterDict(
            {"gate": torch.tensor(-0.01), "low": torch.tensor(2.0), "high": torch.tensor(1.0)}
        )

    def training_step(self, batch, batch_idx):
        gate = self.network["gate"]
        expert = self.network["high" if gate > 0 else "low"]
        return {"loss": 3 * gate + expert**2, "mean": (expert + 10 * gate) ** 2}


def test_weights_that_the_further_pass_alone_reaches_have_its_gradient(tmp_path):
    module = Experts()
    trainer(tmp_path, [SAM(rho=0.5)]).fit(module, Rows(batches(1)))
    assert module.network["high"].item() == pytest.approx(1.0 - 0.1 * 2) and module.network["low"].item() == 2.0
    module = Experts()
    trainer(tmp_path, [SurrogateGradientNorm(weight=1.0, radius=0.5)]).fit(module, Rows(batches(1)))
    slope = 2 * (2.0 - 0.1) * torch.tensor([10.0, 1.0])
    gate = -0.01 + 0.5 * (slope / slope.norm())[0]
    assert gate > 0
    # ρ / r = 0.4, between the slopes through the other expert there and through this one here.
    assert module.network["high"].item() == pytest.approx(1.0 - 0.1 * 0.4 * 2 * (1.0 + 10 * gate.item()), rel=1e-5)
    assert module.network["low"].item() == pytest.approx(2.0 - 0.1 * (2 * 2.0 - 0.4 * slope[1].item()), rel=1e-5)


class Remembers(Tiny):
    """Keeps all inputs and a mean that begins with the first ones, and tells what each pass read of them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("inputs", torch.zeros(0, 5))
        self.register_buffer("mean", None)
        self.read = []

    def training_step(self, batch, batch_idx):
        self.read.append((len(self.inputs), None if self.mean is None else self.mean.item()))
        self.inputs = torch.cat([self.inputs, batch[0]])
        now = batch[0].mean()
        self.mean = now if self.mean is None else 0.9 * self.mean + 0.1 * now
        return super().training_step(batch, batch_idx)


def test_buffers_that_grow_or_begin_are_put_back(tmp_path):
    module, plain, data = Remembers(), Remembers(), batches(3)
    trainer(tmp_path, [SAM()]).fit(module, Rows(data))
    trainer(tmp_path, []).fit(plain, Rows(data))
    assert module.read[::2] == module.read[1::2] == plain.read
    assert torch.equal(module.inputs, plain.inputs) and torch.equal(module.mean, plain.mean)


def test_a_step_that_is_left_out_counts_no_predictions(tmp_path):
    class LeavesOut(L.Callback):
        def on_before_optimizer_step(self, fitter, module, optimizer):
            if fitter.global_step == 0:
                optimizer.zero_grad()

    def multiplier(others, data):
        penalty = SurrogateGradientNorm(weight=0.0, learning_rate=1.0, bound=0.0, predictions="logits")
        still = lambda parameters: torch.optim.SGD(parameters, lr=0.0)  # noqa: E731
        trainer(tmp_path, [*others, penalty]).fit(Tiny(still), Rows(data))
        return penalty.multiplier.item()

    once = batches(1)
    assert multiplier([LeavesOut()], [*once, *once]) == multiplier([], once) > 0


def test_a_second_training_begins_with_the_weight_that_was_given(tmp_path):
    penalty, ends = SurrogateGradientNorm(weight=0.2, learning_rate=0.1, predictions="logits"), []
    for _ in range(2):
        trainer(tmp_path, [penalty]).fit(Tiny(), Rows(batches(2)))
        ends.append(penalty.multiplier)
    assert torch.equal(*ends) and ends[0] != 0.2


def test_a_small_radius_is_the_gradient_of_the_norm(tmp_path):
    data = [(inputs.double(), target) for inputs, target in batches(1)]
    module = Wide()
    module.make_optimizer = lambda parameters: torch.optim.SGD(parameters, lr=1.0)
    penalty = SurrogateGradientNorm(weight=0.5, rho=0.2, radius=1e-5, predictions="logits")
    trainer(tmp_path, [penalty]).fit(module, Rows(data))
    want = network().double()
    parameters = list(want.parameters())
    (inputs, target), mean = data[0], want(data[0][0]).mean()
    slopes = torch.autograd.grad(mean, parameters, create_graph=True)
    norm = torch.cat([slope.flatten() for slope in slopes]).norm()
    total = F.cross_entropy(want(inputs), target) + 0.5 * 0.2 * norm
    steps = torch.autograd.grad(total, parameters)
    for got, weight, step in zip(module.network.parameters(), parameters, steps, strict=True):
        torch.testing.assert_close(got, weight - step, rtol=1e-6, atol=1e-7)


def scaled(start=16.0):
    return MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu", init_scale=start))


@each
def test_gradients_are_unscaled_before_the_norm(tmp_path, name):
    got = train(tmp_path, METHODS[name], plugins=[scaled()])
    # Forward passes have 11 bits in float16, 8 in bfloat16; the optimizer alone is off by 0.03 or more.
    want = train(tmp_path, METHODS[name])
    assert_close(got, want, rtol=2e-3, atol=2e-3)
    assert_close(train(tmp_path, METHODS[name], precision="bf16-mixed"), want, rtol=0.01, atol=0.01)


class Overflows(Tiny):
    """Has an infinite gradient in one pass of its third batch."""

    at = 0

    def training_step(self, batch, batch_idx):
        output = super().training_step(batch, batch_idx)
        self.calls = getattr(self, "calls", {})
        self.calls[batch_idx] = self.calls.get(batch_idx, 0) + 1
        if batch_idx == 2 and self.calls[2] == self.at:
            output = {name: value * torch.tensor(1e38) * 1e38 for name, value in output.items()}
        return output


class Before(L.Callback):
    def on_train_batch_start(self, fitter, module, batch, batch_idx):
        self.before = {name: p.detach().clone() for name, p in module.named_parameters()}

    def on_train_batch_end(self, fitter, module, outputs, batch, batch_idx):
        if batch_idx == 2:
            self.same = all(torch.equal(p, self.before[name]) for name, p in module.named_parameters())


@pytest.mark.parametrize(("name", "at"), [("sam", 1), ("sam", 2), ("surrogate", 1), ("surrogate", 2), ("surrogate", 3)])
def test_a_step_that_overflows_in_any_pass_is_skipped(tmp_path, name, at):
    module, watch, precision = Overflows(), Before(), scaled()
    module.at = at
    data = Rows(batches())
    trainer(tmp_path, [*METHODS[name](), watch], plugins=[precision]).fit(module, data)
    assert watch.same and precision.scaler.get_scale() == 8.0
    assert all(p.isfinite().all() for p in module.parameters())
    assert module.calls == dict.fromkeys(range(6), 2 if name == "sam" else 3)


def test_a_step_that_a_guard_leaves_out_has_no_second_pass(tmp_path):
    module = Overflows()
    module.at = 1
    guard = NumericsGuard(skip=True, save=0)
    data = Rows(batches())
    trainer(tmp_path, [guard, SAM()]).fit(module, data)
    # The guard ran it again to find the cause.
    assert guard.skipped == 1 and module.calls == {0: 2, 1: 2, 2: 2, 3: 2, 4: 2, 5: 2}


@each
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, name):
    data, path = batches(), tmp_path / "half.ckpt"
    train(tmp_path, METHODS[name], optimizer=adamw, data=data[:3], save=path)
    options = {"optimizer": adamw, "max_epochs": 2}
    resumed = train(tmp_path, METHODS[name], data=data[:3], ckpt_path=path, **options)
    whole = train(tmp_path, METHODS[name], data=data[:3], **options)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    # A callback that did nothing would go another way.
    assert differs(whole, train(tmp_path, lambda: [], data=data[:3], **options))


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@each
def test_two_processes_are_one(tmp_path, name, strategy):
    options = {"accumulate_grad_batches": 2}
    got = train(tmp_path, METHODS[name], strategy=strategy, **options)
    # Sums in another order, in float32, through three steps.
    assert_close(got, train(tmp_path, METHODS[name], **options), rtol=1e-4, atol=1e-5)


@pytest.mark.distributed
def test_gradients_within_ddps_buckets_outlive_further_passes(tmp_path):
    views = {"gradient_as_bucket_view": True}
    got = train(tmp_path, METHODS["surrogate"], strategy="ddp", ddp=views, data=batches(2))
    assert_close(got, train(tmp_path, METHODS["surrogate"], data=batches(2)), rtol=1e-4, atol=1e-5)


class Heads(Tiny):
    """Each process uses a head of its own."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 3)])

    def training_step(self, batch, batch_idx):
        inputs, target = batch
        return F.cross_entropy(self.heads[self.trainer.global_rank](inputs) + self.network(inputs), target)


@pytest.mark.distributed
def test_processes_that_climb_alone_through_other_weights_stay_the_same(tmp_path):
    def run():
        options = {"start_method": "popen", "process_group_backend": "gloo", "find_unused_parameters": True}
        torch.manual_seed(0)
        module = Heads()
        fitter = trainer(tmp_path, [SAM(0.3, local=True)], devices=2, strategy=DDPStrategy(**options))
        fitter.fit(module, PerProcess(batches(2)))
        torch.save(module.state_dict(), tmp_path / f"{fitter.global_rank}.pt")

    run_on_processes(run, 2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.distributed
def test_each_process_may_climb_alone(tmp_path):
    one_batch = batches(1)
    plain = lambda parameters: torch.optim.SGD(parameters, lr=1.0)  # noqa: E731
    got = train(tmp_path, lambda: [SAM(0.3, local=True)], strategy="ddp", data=one_batch, optimizer=plain)
    (inputs, target), start = one_batch[0], network()
    steps = []
    for rank in range(2):
        moved = network()
        by_hand("sam", moved, [(inputs[rank::2], target[rank::2])])
        steps.append([p.grad for p in moved.parameters()])
    for (name, weight), first, second in zip(start.named_parameters(), *steps, strict=True):
        torch.testing.assert_close(got[f"network.{name}"], weight.detach() - (first + second) / 2, rtol=1e-5, atol=1e-6)


def test_an_objective_that_remembers_is_the_same_in_both_passes(tmp_path):
    """With ρ = 0 the second gradient is the first, though the first pass changed what is kept of samples."""

    def weights(callbacks):
        torch.manual_seed(0)
        module = Classifier(network(), Objective({"ce": CrossEntropy(), "elr": ELR()}), 3, optimizer=sgd)
        rows = [
            {"inputs": inputs, "target": target, "index": torch.arange(8)}
            for inputs, target in [*batches(3), *batches(3)]
        ]
        # Batches of unequal size, of which each accumulated step takes its share.
        rows[1] = {name: value[:5] for name, value in rows[1].items()}
        fitter = trainer(tmp_path, callbacks, accumulate_grad_batches=2)
        fitter.fit(module, Rows(rows))
        return module.state_dict(), module.sample_states, fitter.callback_metrics

    got, kept, logged = weights([SAM(rho=0.0)])
    want, kept_plainly, logged_plainly = weights([])
    assert all(torch.equal(got[name], want[name]) for name in want)
    (rows,), (plain_rows,) = kept.values(), kept_plainly.values()
    assert all(torch.equal(column, plain_rows.columns[name]) for name, column in rows.columns.items()) and rows.columns
    assert logged == logged_plainly


@pytest.mark.parametrize("policy", [PCGrad, ReLoBRaLo, UncertaintyWeighting])
def test_a_policy_balances_both_passes(tmp_path, policy):
    def weights(callbacks):
        torch.manual_seed(0)
        terms = {"ce": CrossEntropy(), "brier": Term(Brier(), weight=0.5)}
        module = Classifier(network(), Objective(terms, balancing=policy()), 3, optimizer=sgd)
        fitter = trainer(tmp_path, callbacks, accumulate_grad_batches=2)
        fitter.fit(module, Rows([{"inputs": inputs, "target": target} for inputs, target in batches()]))
        return module.state_dict()

    got, want = weights([SAM(rho=0.0)]), weights([])
    assert all(torch.equal(got[name], want[name]) for name in want)
    assert differs(weights([SAM(rho=0.3)]), want)


def test_a_trainer_that_failed_fits_again(tmp_path):
    class Fails(L.Callback):
        def on_train_batch_end(self, fitter, module, *arguments):
            if not hasattr(self, "failed"):
                self.failed = True
                raise RuntimeError("once")

    fitter = trainer(tmp_path, [SAM(rho=0.3), Fails()])
    with pytest.raises(RuntimeError, match="once"):
        fitter.fit(Tiny(), Rows(batches()))
    module = Overflows()
    fitter.fit(module, Rows(batches()))
    assert set(module.calls.values()) == {2}


class Manual(Tiny):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Iterating(Tiny):
    def training_step(self, dataloader_iter):
        return None


@pytest.mark.filterwarnings("ignore:.*dataloader_iter")
@pytest.mark.parametrize(
    ("module", "callbacks", "options", "words"),
    [
        (Manual, [SAM()], {}, "use automatic optimization"),
        (Iterating, [SAM()], {}, "take batches"),
        (Tiny, [SAM(), ASAM()], {}, "choose one"),
        (Tiny, [Grokfast("ema"), SAM()], {}, "put it before"),
        (Tiny, [SAM(), NLMCosine()], {}, "put it before"),
        (Tiny, [ASAM(scaled=["*.kernel"])], {}, "matches none"),
        (Tiny, [SurrogateGradientNorm()], {}, "without 'mean'"),
        (Tiny, [SurrogateGradientNorm(predictions="target")], {}, "not detached"),
    ],
)  # fmt: skip
def test_what_can_not_be_repeated_is_refused(tmp_path, module, callbacks, options, words):
    with pytest.raises(ValueError, match=words):
        trainer(tmp_path, callbacks, **options).fit(module(), Rows(batches()))


def test_a_fused_optimizer_under_a_loss_scale_is_refused(tmp_path):
    fused = lambda parameters: torch.optim.AdamW(parameters, fused=True)  # noqa: E731
    with pytest.raises(ValueError, match="fused=False"):
        train(tmp_path, METHODS["sam"], plugins=[scaled()], optimizer=fused)
