"""Monitors that attack: what they log is what the network does, and the network does not notice."""

import warnings
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_losses.attacks import CWL2, FGSM, PGD
from lightning_losses.callbacks import AdversarialErrorScaling, RobustAccuracy
from lightning_losses.callbacks.monitors.adversarial_error_scaling import power_law_exponent
from lightning_losses.diagnostics.attacked_accuracy import attacked_rows, masked_gradient, random_draws
from tests.callbacks.training import Tiny, assert_close, trainer

INPUTS = torch.randn(24, 5, generator=torch.Generator().manual_seed(1))
TARGET = torch.arange(24) % 3
ATTACKS = {"fgsm": FGSM(epsilon=0.3, bounds=None), "pgd": PGD(epsilon=0.3, step_size=0.1, steps=4, bounds=None)}


class Called(Tiny):
    def forward(self, inputs):
        return self.network(inputs)

    def test_step(self, batch, batch_idx):
        return self.validation_step(batch, batch_idx)


def loader(ignored=0):
    target = TARGET.clone()
    target[:ignored] = -100
    return DataLoader(TensorDataset(INPUTS, target), batch_size=8)


def fit(folder, *callbacks, **options):
    module = Called()
    run = trainer(folder, list(callbacks), limit_val_batches=1.0, **options)
    run.fit(module, loader(), loader(ignored=5))
    return module, run


def test_it_logs_the_accuracies_of_the_kept_samples(tmp_path):
    monitor = RobustAccuracy(ATTACKS, surrogates={"other": nn.Linear(5, 3)}, draws=3, folder=tmp_path)
    module, run = fit(tmp_path, monitor, max_epochs=2)
    assert monitor.steps == [3, 6] and (tmp_path / "robust_accuracy.png").is_file()
    right = {name: torch.zeros(3) for name in monitor.values}
    counts = torch.zeros(3)
    for inputs, target in loader(ignored=5):
        kept = target >= 0
        rows = attacked_rows(
            module, inputs[kept], target[kept], ATTACKS, surrogates=monitor.surrogates,
            random=random_draws(ATTACKS["fgsm"], 3),
        )  # fmt: skip
        counts += torch.bincount(target[kept], minlength=3)
        for name, one in rows.right.items():
            right[name] += torch.bincount(target[kept][one], minlength=3)
    tail = (right["worst"] / counts).min()
    expected = {name: (one.sum() / counts.sum()).item() for name, one in right.items()} | {"tail_30": tail.item()}
    assert {name: values[-1] for name, values in monitor.values.items()} == pytest.approx(expected)
    assert expected["worst"] <= min(expected["fgsm"], expected["pgd"]) < expected["clean"]
    assert run.callback_metrics["val/robust_accuracy/worst"] == pytest.approx(expected["worst"])


def test_training_does_not_notice(tmp_path):
    with_monitor, _ = fit(tmp_path, RobustAccuracy(ATTACKS), AdversarialErrorScaling(ATTACKS["fgsm"], [0.1, 0.2]))
    state = torch.get_rng_state()
    without, _ = fit(tmp_path)
    assert torch.equal(state, torch.get_rng_state())
    weights = [dict(module.named_parameters()) for module in (with_monitor, without)]
    assert_close(*weights, rtol=0, atol=0)


@pytest.mark.parametrize("inference_mode", [True, False])
def test_test_and_validate_log_it_too(tmp_path, inference_mode):
    run = trainer(tmp_path, [RobustAccuracy(ATTACKS, every_n_epochs=9)], inference_mode=inference_mode)
    run.limit_val_batches = 1.0
    module = Called()
    (test,) = run.test(module, loader(), verbose=False)
    (val,) = run.validate(module, loader(), verbose=False)
    assert test.keys() == {name.replace("val/", "test/") for name in val}
    assert test["test/robust_accuracy/worst"] == val["val/robust_accuracy/worst"] < test["test/robust_accuracy/clean"]


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_a_surrogate_keeps_its_own_precision(tmp_path, precision):
    surrogate = nn.Linear(5, 3)
    run = trainer(tmp_path, [RobustAccuracy(ATTACKS, surrogates={"other": surrogate})], precision=precision)
    (values,) = run.test(Called(), loader(), verbose=False)
    assert 0 <= values["test/robust_accuracy/transfer/other"] <= 1 and surrogate.weight.dtype == torch.float32


def test_it_measures_where_it_is_time_and_the_first_batches(tmp_path):
    monitor = RobustAccuracy(ATTACKS, every_n_epochs=2, max_batches=1, draws=0)
    seen = []
    monitor.sums = lambda trainer, network, inputs, target, keys: (
        seen.append(len(target)) or RobustAccuracy.sums(monitor, trainer, network, inputs, target, keys)
    )
    fit(tmp_path, monitor, max_epochs=4)
    assert seen == [3, 3] and monitor.steps == [6, 12]


def test_what_is_drawn_depends_on_the_samples_and_not_on_their_batches(tmp_path):
    class Indexed(Called):
        def validation_step(self, batch, batch_idx):
            return None

    data = [{"inputs": x, "target": y, "index": i} for i, (x, y) in enumerate(zip(INPUTS, TARGET, strict=True))]
    found = []
    for size in (24, 7):
        monitor = RobustAccuracy({"pgd": PGD(epsilon=0.8, step_size=0.0, steps=1, bounds=None)}, draws=2)
        run = trainer(tmp_path, [monitor])
        run.limit_val_batches = 1.0
        found += run.validate(Indexed(), DataLoader(data, batch_size=size), verbose=False)
    assert found[0] == found[1] and found[0]["val/robust_accuracy/pgd"] != found[0]["val/robust_accuracy/clean"]


def test_a_masked_gradient_is_warned_of(tmp_path):
    torch.manual_seed(0)
    weight = torch.randn(3, 5)
    open_network = nn.Linear(5, 3, bias=False)
    open_network.weight.data = weight.clone()

    class Masked(L.LightningModule):
        def forward(self, inputs):
            # A gradient of 0 wherever it is.
            return inputs.detach() @ weight.T + 0 * inputs.sum()

        def validation_step(self, batch, batch_idx):
            return None

    inputs = INPUTS
    data = DataLoader(TensorDataset(inputs, (inputs @ weight.T).argmax(dim=1)), batch_size=12)
    attacks = {"pgd": PGD(epsilon=0.5, step_size=0.2, steps=5, bounds=None, random_start="none")}

    def validate(module):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            monitor = RobustAccuracy(attacks, surrogates={"open": open_network}, draws=0)
            run = trainer(tmp_path, [monitor])
            run.limit_val_batches = 1.0
            (values,) = run.validate(module, data, verbose=False)
        return values, [str(one.message) for one in told if "hides its gradient" in str(one.message)]

    values, told = validate(Masked())
    assert values["val/robust_accuracy/pgd"] == 1.0 and values["val/robust_accuracy/transfer/open"] < 0.5
    assert len(told) == 1 and told[0].startswith("robust_accuracy: the accuracy under white-box attacks, 100.0 %, is")

    class Open(Masked):
        def __init__(self):
            super().__init__()
            self.network = open_network

        def forward(self, inputs):
            return self.network(inputs)

    assert validate(Open())[1] == []


def test_the_check_needs_something_to_compare_with():
    assert masked_gradient({"clean": 1.0, "worst": 0.9}) is None
    assert masked_gradient({"worst": 0.9, "random": 0.895}, tolerance=0.01) is None
    assert "by random points, 80.0 %" in masked_gradient({"worst": 0.9, "random": 0.8, "transfer/a": 0.85})


def test_the_error_of_a_linear_network_follows_its_margins(tmp_path):
    epsilons = [0.02, 0.04, 0.08, 0.16, 0.32, 0.64]
    monitor = AdversarialErrorScaling(FGSM(bounds=None), epsilons, saturation=0.9, small_gap=0.5, folder=tmp_path)
    module = Called()
    module.network = nn.Linear(5, 2)
    data = DataLoader(TensorDataset(INPUTS, (INPUTS[:, 0] > 0).long()), batch_size=8)
    run = trainer(tmp_path, [monitor], limit_val_batches=1.0)
    run.fit(module, data, data)
    weight, bias = module.network.weight.detach(), module.network.bias.detach()
    logits, target = INPUTS @ weight.T + bias, (INPUTS[:, 0] > 0).long()
    # A step along the signs moves the margin of two classes by this.
    slope = (weight[0] - weight[1]).abs().sum()
    gap = (logits[:, 0] - logits[:, 1]).abs()
    right = logits.argmax(dim=1) == target
    errors = {epsilon: (gap[right] < epsilon * slope).double().mean().item() for epsilon in epsilons}
    found = {name: values[-1] for name, values in monitor.values.items()}
    assert {epsilon: found[f"error_{epsilon:g}"] for epsilon in epsilons} == pytest.approx(errors)
    assert found["exponent"] == pytest.approx(power_law_exponent(errors, 0.9))
    assert found["gap"] == pytest.approx(gap.mean().item())
    assert found["gap_below"] == pytest.approx((gap < 0.5).double().mean().item())
    assert (tmp_path / "adversarial_error_scaling.png").is_file()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: RobustAccuracy({}), "robust_accuracy: attacks={} came; give at least one attack by name"),
        (lambda: RobustAccuracy({"worst": FGSM()}), "robust_accuracy: an attack is called 'worst'"),
        (lambda: AdversarialErrorScaling(FGSM(), [0.1]), r"adversarial_error_scaling: epsilons=\[0.1\] came; give at"),
        (lambda: RobustAccuracy(FGSM()), "robust_accuracy: attacks=<"),
        (lambda: RobustAccuracy({"pgd": FGSM()}, {"a": 3}), "robust_accuracy: surrogates=dict came"),
        (
            lambda: RobustAccuracy({"transfer/a": FGSM()}, {"a": nn.Identity()}),
            "robust_accuracy: an attack is called 'transfer/a'",
        ),
        (lambda: RobustAccuracy({"pgd": FGSM()}, tail=0), "robust_accuracy: tail=0 came"),
        (lambda: AdversarialErrorScaling(CWL2(), [0.1, 0.2]), "adversarial_error_scaling: attack=CWL2 came"),
        (lambda: AdversarialErrorScaling(FGSM(), 0.1), r"adversarial_error_scaling: epsilons=\[0.1\] came"),
        (lambda: AdversarialErrorScaling(FGSM(), [0.1, 0.1]), r"adversarial_error_scaling: epsilons=\[0.1, 0.1\]"),
        (lambda: attacked_rows(nn.Identity(), INPUTS, TARGET, {}), "attacked_rows: no attacks came"),
    ],
    ids=[
        "none",
        "taken",
        "one radius",
        "no names",
        "no network",
        "transfer",
        "no tail",
        "no ball",
        "number",
        "twice",
        "no attacks",
    ],
)
def test_what_does_not_fit_is_refused(make, told):
    with pytest.raises(ValueError, match=f"^{told}"):
        make()


def test_the_errors_of_several_loaders_are_drawn():
    monitor = AdversarialErrorScaling(FGSM(), epsilons=[0.1, 0.2])
    values = {f"{loader}/error_{epsilon:g}": 0.5 for loader in (0, 1) for epsilon in monitor.epsilons}
    monitor.record(SimpleNamespace(loggers=[]), 3, {**values, "0/gap": 1.0})
    assert [line.get_label() for line in monitor.figure().axes[0].lines] == list(values)
