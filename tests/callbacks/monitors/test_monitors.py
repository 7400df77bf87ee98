"""The monitors of grokking: closed forms, what they see in a trainer, many processes, going on, pictures."""

import math
from types import SimpleNamespace

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from matplotlib.image import imread
from torch import nn

from lightning_losses.callbacks.interventions.grokfast import Grokfast
from lightning_losses.callbacks.interventions.orthogonal_gradient import OrthogonalGradient
from lightning_losses.callbacks.monitors.grokking_monitor import Delay, GrokkingMonitor, first_held
from lightning_losses.callbacks.monitors.nlm_cosine import NLMCosine, nlm_cosine
from lightning_losses.callbacks.monitors.softmax_collapse import SoftmaxCollapse, collapsed_rows, zero_loss_rows
from lightning_losses.callbacks.monitors.weight_norms import WeightNorms
from lightning_losses.networks.mlp import MLP
from lightning_losses.optim.orthogonal_gradient import orthogonalize_gradients_
from lightning_losses.optim.weight_norm import weight_norm
from tests.callbacks.training import PerProcess, Tiny, batches, network, sgd, train, trainer

PRECISIONS = ("float16", "float32", "float64")


# Two classes collapse where exp(-gap) is at most half a unit in the last place of 1.
@pytest.mark.parametrize(("precision", "bits"), [("float16", 11), ("float32", 24), ("float64", 53)])
def test_two_classes_collapse_from_the_gap_that_rounds_off(precision, bits):
    # float16 rounds the gap itself to 2**-8 here.
    gap, dtype = bits * math.log(2), getattr(torch, precision)
    rows = torch.tensor([[0.0, gap - 0.01], [0.0, gap + 0.01]], dtype=torch.float64)
    assert collapsed_rows(rows, dtype).tolist() == [False, True]


def test_higher_precisions_collapse_less():
    logits = torch.randn(500, 4, dtype=torch.float64) * 20
    shares = [collapsed_rows(logits, getattr(torch, name)).double().mean() for name in PRECISIONS]
    assert shares[0] > shares[1] > shares[2] > 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_logits_beyond_the_range_collapse(precision):
    logits = torch.tensor([[1e30, -1e30, 0.0], [1e30, 1e30, 0.0], [5.0, -torch.inf, 5.0]])
    dtype = getattr(torch, precision)
    assert collapsed_rows(logits, dtype).tolist() == [True, False, False]
    assert zero_loss_rows(logits, torch.tensor([0, 0, 0]), dtype).tolist() == [True, False, False]


def test_a_zero_loss_needs_the_right_class():
    logits = torch.tensor([[0.0, 20.0], [0.0, 20.0], [0.0, 1.0]])
    assert zero_loss_rows(logits, torch.tensor([1, 0, 1])).tolist() == [True, False, False]


def test_the_cosine_of_a_homogeneous_network_is_eulers():
    module = MLP(5, 3, hidden=[6, 6], bias=False).double()
    logits, target = module(torch.randn(9, 5, dtype=torch.float64)), torch.randint(3, (9,))
    logits.retain_grad()
    F.cross_entropy(logits, target).backward()
    weights = list(module.parameters())
    gradients = [weight.grad for weight in weights]
    whole, _ = nlm_cosine(weights, gradients)
    norm = math.prod(torch.cat([t.flatten() for t in tensors]).norm().item() for tensors in (weights, gradients))
    # <w, dL/dw> = depth * sum <z, dL/dz> for outputs homogeneous of degree 3.
    assert whole.item() == pytest.approx(-3 * (logits * logits.grad).sum().item() / norm, abs=1e-12)


def test_the_cosine_at_its_limits():
    weights, gradients = [torch.randn(4, 3), torch.randn(3)], [torch.randn(4, 3), torch.zeros(3)]
    assert nlm_cosine(weights, [-3 * w for w in weights])[0].item() == pytest.approx(1, abs=1e-6)
    assert nlm_cosine([torch.zeros(2)], [torch.ones(2)])[0] == 0
    orthogonalize_gradients_(weights, gradients)
    whole, each = nlm_cosine(weights, gradients)
    assert whole.abs() < 1e-6 and each[1] == 0


@pytest.mark.parametrize("scale", [1e-25, 1e20])
def test_the_cosine_of_gradients_of_any_scale(scale):
    weights = torch.randn(4, 3)
    assert nlm_cosine([weights], [-scale * weights])[0].item() == pytest.approx(1)
    whole, each = nlm_cosine([weights, weights], [-weights, torch.nan * weights])
    assert whole.isnan() and each.isnan().tolist() == [False, True]


def monitors(folder=None):
    return [
        SoftmaxCollapse(PRECISIONS, every_n_steps=2, folder=folder),
        NLMCosine(every_n_steps=2, folder=folder),
        WeightNorms(every_n_steps=2, folder=folder),
        GrokkingMonitor(memorised=0.3, generalised=0.3, folder=folder, val_metric="val/accuracy"),
    ]


class Validating(Tiny):
    def validation_step(self, batch, batch_idx):
        output = super().validation_step(batch, batch_idx)
        hits = (output["logits"].argmax(-1) == output["target"]).double().mean()
        self.log("val/accuracy", hits, sync_dist=True)
        return output


def fit(folder, callbacks, **options):
    options = {"limit_val_batches": 1, "val_check_interval": 2, **options}
    ckpt_path = options.pop("ckpt_path", None)
    fitter, module = trainer(folder, callbacks, **options), Validating()
    fitter.fit(module, PerProcess(batches()), ckpt_path=ckpt_path)
    return fitter, module


def recording(**options):
    strategy = SimpleNamespace(root_device=torch.device("cpu"), reduce=lambda values, reduce_op: values)
    return SimpleNamespace(global_step=0, loggers=[], strategy=strategy, **options)


def test_a_name_that_a_step_lacks_moves_no_other_value():
    monitor = WeightNorms()
    for step, values in enumerate([{"all": 1.0}, {"all": 2.0, "bias": 2.0}, {"all": 3.0}, {"all": 4.0, "bias": 4.0}]):
        monitor.record(recording(), step, values)
    steps, values = monitor.curves()["bias"]
    assert dict(zip(steps, values, strict=True)) == {1: 2, 2: pytest.approx(math.nan, nan_ok=True), 3: 4}


def test_a_step_that_an_exception_ended_counts_for_nothing():
    monitor, fitter, module = SoftmaxCollapse(), recording(), nn.Linear(1, 1)
    for collapsed in (True, False):
        monitor.on_train_start(fitter, module)
        monitor.on_train_batch_start(fitter, module, None, 0)
        # The first step ends before its last batch.
        fitter.global_step = 0 if collapsed else 1
        outputs = {"logits": torch.tensor([[0.0, 50.0 * collapsed]]), "target": torch.tensor([0])}
        monitor.on_train_batch_end(fitter, module, outputs, None, 0)
    assert monitor.values["float32"] == [0]


def test_values_are_those_of_the_weights_at_each_step(tmp_path):
    collapse, cosine, norms, grokking = callbacks = monitors()
    fit(tmp_path, callbacks)
    module, data = network(), batches()
    optimizer = sgd(module.parameters())
    for step, (inputs, target) in enumerate(data):
        logits = module(inputs)
        optimizer.zero_grad()
        F.cross_entropy(logits, target).backward()
        if step % 2 == 0:
            at = step // 2
            weights = list(module.parameters())
            assert collapse.steps[at] == cosine.steps[at] == norms.steps[at] == step
            assert collapse.values["float16"][at] == collapsed_rows(logits, torch.float16).double().mean()
            assert cosine.values["all"][at] == pytest.approx(
                nlm_cosine(weights, [w.grad for w in weights])[0].item(), abs=1e-6
            )
            assert norms.values["all"][at] == pytest.approx(weight_norm(weights).item(), rel=1e-6)
            assert norms.values["network.0.bias"][at] == pytest.approx(module[0].bias.norm().item(), rel=1e-6)
            assert grokking.train[at] == (step, (logits.argmax(-1) == target).double().mean())
            if step:
                seen, known = data[0]
                accuracy = (module(seen).argmax(-1) == known).double().mean().item()
                assert grokking.val[at - 1] == (step, accuracy)
        optimizer.step()
    assert [step for step, _ in grokking.val] == [2, 4, 6]


def test_an_accumulated_step_counts_all_its_batches(tmp_path):
    collapse = SoftmaxCollapse(["float16"], every_n_steps=1)
    seen = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            seen.append(outputs["logits"].detach())

    class Confident(Tiny):
        def training_step(self, batch, batch_idx):
            # Logits of different sizes, so that collapse differs between the batches of a step.
            output = super().training_step(batch, batch_idx)
            return {**output, "logits": output["logits"] * (20 if batch_idx % 2 else 5)}

    trainer(tmp_path, [collapse, Watch()], accumulate_grad_batches=2).fit(Confident(), PerProcess(batches()))
    steps = [torch.cat(pair) for pair in zip(seen[::2], seen[1::2], strict=True)]
    want = [collapsed_rows(logits, torch.float16).double().mean() for logits in steps]
    assert collapse.steps == [0, 1, 2] and collapse.values["float16"] == want
    assert 0 < want[0] < 1


def on_processes(folder):
    def make():
        class Keep(L.Callback):
            def on_fit_end(self, trainer, module):
                states = [monitor.state_dict() for monitor in watching]
                torch.save(states, folder / f"states{trainer.global_rank}.pt")

        watching = monitors()[:3]
        return [*watching, Keep()]

    return make


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_processes_agree_with_one(tmp_path, strategy):
    train(tmp_path, on_processes(tmp_path))
    alone = torch.load(tmp_path / "states0.pt", weights_only=True)
    train(tmp_path, on_processes(tmp_path), strategy=strategy)
    for rank in (0, 1):
        together = torch.load(tmp_path / f"states{rank}.pt", weights_only=True)
        for one, both in zip(alone, together, strict=True):
            assert one["steps"] == both["steps"]
            for name, values in one["values"].items():
                assert both["values"][name] == pytest.approx(values, abs=1e-5)


@pytest.mark.distributed
def test_the_grokking_monitor_counts_every_process(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.callbacks.training.Tiny", Validating)

    def keep():
        class Keep(GrokkingMonitor):
            def on_fit_end(self, trainer, module):
                torch.save([self.train, self.val], tmp_path / f"curves{trainer.global_rank}.pt")

        return [Keep()]

    options = {"limit_val_batches": 1, "val_check_interval": 2}
    train(tmp_path, keep, **options)
    alone = torch.load(tmp_path / "curves0.pt")
    train(tmp_path, keep, strategy="ddp", **options)
    for rank in (0, 1):
        for one, both in zip(alone, torch.load(tmp_path / f"curves{rank}.pt"), strict=True):
            assert [step for step, _ in one] == [step for step, _ in both]
            # Accuracies of a few rows; the processes' means are of equal halves.
            assert [value for _, value in both] == pytest.approx([value for _, value in one], abs=1e-6)


def test_a_resumed_run_has_the_uninterrupted_curves(tmp_path):
    fitter, _ = fit(tmp_path, monitors())
    fitter.save_checkpoint(tmp_path / "half.ckpt")
    resumed, whole = monitors(), monitors()
    fit(tmp_path, resumed, max_epochs=2, ckpt_path=tmp_path / "half.ckpt")
    fit(tmp_path, whole, max_epochs=2)
    for left, right in zip(resumed, whole, strict=True):
        assert left.state_dict() == right.state_dict()
    assert len(whole[0].steps) == 6 and len(whole[3].val) == 6


def test_scalars_reach_the_logger_and_pictures_the_folder(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    fit(tmp_path, monitors(tmp_path / "pictures"), logger=logger)
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"softmax_collapse/float32", "nlm_cosine/all", "weight_norms/all", "grokking/val"} <= set(header)
    for name in ("softmax_collapse", "nlm_cosine", "weight_norms", "grokking"):
        picture = imread(tmp_path / "pictures" / f"{name}.png")
        # More than paper: something is drawn.
        assert picture.shape[0] > 500 and (picture[..., :3] < 0.5).any()


def test_first_held_needs_patience():
    steps, reached = [0, 1, 2, 3], [True, False, True, True]
    assert first_held(steps, reached) == 0
    assert first_held(steps, reached, patience=2) == 2
    assert math.isnan(first_held(steps, reached, patience=3))


def test_what_has_not_happened_is_no_number(tmp_path):
    monitor = GrokkingMonitor(memorised=0.0, generalised=1.1)
    logger = CSVLogger(tmp_path, name="", version="")
    fit(tmp_path, [monitor], logger=logger)
    delay = monitor.delay()
    assert delay.memorised == 0
    assert all(math.isnan(value) for value in (delay.generalised, delay.delay, delay.ratio))
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert "grokking/memorised" in header and "grokking/generalised" not in header


def test_delay_and_ratio():
    delay = Delay(memorised=20, generalised=100)
    assert (delay.delay, delay.ratio) == (80, 5)
    assert math.isnan(Delay(0, 10).ratio)


@pytest.mark.parametrize("after", [OrthogonalGradient, Grokfast])
def test_the_cosine_behind_what_changes_gradients_is_refused(tmp_path, after):
    with pytest.raises(ValueError, match="put it before"):
        fit(tmp_path, [after(), NLMCosine()])


def test_a_step_without_logits_is_refused(tmp_path):
    class Bare(Tiny):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx)["loss"]

    with pytest.raises(ValueError, match="'logits' and 'target'"):
        trainer(tmp_path, [SoftmaxCollapse()]).fit(Bare(), PerProcess(batches()))


def test_a_validation_without_the_metric_is_refused(tmp_path):
    with pytest.raises(ValueError, match="val/loss"):
        fit(tmp_path, [GrokkingMonitor(measure="loss")])


@pytest.mark.parametrize(
    "make",
    [
        lambda: SoftmaxCollapse(["float8"]),
        lambda: SoftmaxCollapse("float32"),
        lambda: WeightNorms(every_n_steps=0),
        lambda: GrokkingMonitor(patience=0),
        lambda: GrokkingMonitor(measure="recall"),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="came"):
        make()


def test_a_parameter_without_gradient_is_left_out(tmp_path):
    class Idle(Validating):
        def __init__(self):
            super().__init__()
            self.idle = nn.Parameter(torch.ones(3))

    monitor = NLMCosine(every_n_steps=2)
    trainer(tmp_path, [monitor, OrthogonalGradient()], limit_val_batches=0).fit(Idle(), PerProcess(batches()))
    assert "idle" not in monitor.values and len(monitor.values["all"]) == 3
