"""Neural collapse at its limit, under the symmetries of its definition, and watched in a trainer."""

import pytest
import torch

from lightning_losses.callbacks.monitors.neural_collapse import NeuralCollapse
from lightning_losses.diagnostics.neural_collapse import neural_collapse
from tests.callbacks.training import PerProcess, Tiny, batches, train, trainer


def simplex(classes=4, d=6):
    corners = torch.eye(classes, dtype=torch.float64) - 1 / classes
    rotation = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64))[0]
    return corners @ rotation[:classes]


def random(samples=200, classes=4, d=6):
    target = torch.arange(samples) % classes
    features = torch.randn(classes, d, dtype=torch.float64)[target] + torch.randn(samples, d, dtype=torch.float64)
    return features, target, torch.randn(classes, d, dtype=torch.float64), torch.randn(classes, dtype=torch.float64)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_the_collapsed_limit_is_zero(shift):
    means = simplex()
    target = torch.arange(40) % 4
    # Means are centred; the classifier needs a bias for that.
    bias = -2 * shift * means.sum(dim=1)
    for name, value in neural_collapse(5 * means[target] + shift, target, 2 * means, bias).items():
        assert value.item() == pytest.approx(0, abs=1e-9), name


def test_orthogonal_means_are_the_other_limit():
    means = torch.eye(3, 5, dtype=torch.float64) * torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    target = torch.arange(30) % 3
    found = neural_collapse(means[target], target, means, limit="orthogonal")
    assert found["nc2_equiangular_means"] == 0 and found["nc2_equinorm_means"] == pytest.approx(0.5)
    assert neural_collapse(means[target], target, means)["nc2_equiangular_means"] > 0.1


def test_nc1_is_the_trace_with_the_pseudo_inverse():
    features, target, weight, bias = random()
    means = torch.stack([features[target == c].mean(0) for c in range(4)])
    centred, rest = means - means.mean(0), features - means[target]
    within, between = rest.T @ rest / len(rest), centred.T @ centred / 4
    want = (within @ torch.linalg.pinv(between, rtol=1e-10)).trace()
    torch.testing.assert_close(neural_collapse(features, target, weight, bias)["nc1"], want)


def test_rotations_and_scales_change_nothing():
    features, target, weight, _ = random()
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    before = neural_collapse(features, target, weight)
    after = neural_collapse(7 * features @ rotation, target, weight @ rotation)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value)


@pytest.mark.parametrize("broken", ["features", "weight", "bias"])
def test_what_is_not_finite_gives_nan(broken):
    features, target, weight, bias = random()
    given = {"features": features, "weight": weight, "bias": bias}
    given[broken].view(-1)[3] = torch.nan
    assert all(value.isnan() for value in neural_collapse(target=target, **given).values())


def test_what_is_undefined_is_nan_and_no_length_is_too_short():
    features, target, weight, bias = random()
    nothing = neural_collapse(torch.ones_like(features), target, torch.zeros_like(weight))
    assert {name for name, value in nothing.items() if value.isnan()} == set(nothing) - {"nc4"}
    short = neural_collapse(1e-20 * features, target, weight, bias)
    assert short.pop("nc4") <= 1
    whole = neural_collapse(features, target, weight, bias)
    for name, value in short.items():
        torch.testing.assert_close(value, whole[name], rtol=1e-6, atol=0)


def test_a_class_without_samples_is_left_out():
    features, target, weight, bias = random()
    kept = target != 2
    bias[2] = -torch.inf
    some = neural_collapse(features[kept], target[kept], weight, bias)
    relabelled = target[kept] - (target[kept] > 2).long()
    rows = [0, 1, 3]
    fewer = neural_collapse(features[kept], relabelled, weight[rows], bias[rows])
    for name, value in fewer.items():
        torch.testing.assert_close(some[name], value)


def test_fewer_features_than_classes():
    features, target, weight, bias = random(classes=6, d=2)
    assert all(value.isfinite() for value in neural_collapse(features, target, weight, bias).values())


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="1 classes have samples"):
        neural_collapse(torch.randn(4, 2), torch.zeros(4, dtype=torch.int64), torch.randn(3, 2))


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.bool], ids=str)
def test_every_integer_type_counts_classes(dtype):
    features, target, weight, bias = random(classes=2)
    assert neural_collapse(features, target.to(dtype), weight, bias) == neural_collapse(features, target, weight, bias)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (3, "neural_collapse: targets from 0 to 3 came for 2 classes; give 0 to 1."),
        (0, "neural_collapse: another process refused its samples, and says why."),
    ],
    ids=["the one", "the other"],
)
def test_all_processes_refuse_the_samples_of_one(target, sentence):
    features, classes, weight, _ = random(classes=2)
    classes[1] = target
    # As of two processes, of which the other refuses, or this one.
    with pytest.raises(ValueError) as raised:
        neural_collapse(features, classes, weight, total=lambda values: values + 1)
    assert str(raised.value) == sentence


class Called(Tiny):
    def forward(self, inputs):
        return self.network(inputs)


def test_the_monitor_sees_the_training_data_and_disturbs_nothing(tmp_path):
    def fit(callbacks):
        torch.manual_seed(1)
        module = Called()
        trainer(tmp_path, callbacks, max_epochs=2).fit(module, PerProcess(batches()))
        return module

    monitor = NeuralCollapse("network.2", layers=["network.0"], folder=tmp_path)
    module, alone = fit([monitor]), fit([])
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), alone.parameters(), strict=True))
    inputs, target = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    with torch.no_grad():
        hidden = module.network[0](inputs)
        head = module.network[2]
        want = neural_collapse(hidden.tanh(), target, head.weight, head.bias)
        want["nc1/network.0"] = neural_collapse(hidden, target, head.weight)["nc1"]
    assert monitor.steps == [6, 12]
    for name, value in want.items():
        assert monitor.values[name][-1] == pytest.approx(value.item(), rel=1e-6)
    assert (tmp_path / "neural_collapse.png").stat().st_size > 10_000


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_processes_share_the_statistics(tmp_path, monkeypatch, strategy):
    monkeypatch.setattr("tests.callbacks.training.Tiny", Called)

    def keep():
        class Keep(NeuralCollapse):
            def on_fit_end(self, trainer, module):
                torch.save(self.values, tmp_path / f"values{trainer.global_rank}.pt")

        return [Keep("network.2")]

    # The second process has no row with a target in most batches, and leaves them out.
    data = [(inputs, target.clone()) for inputs, target in batches()]
    for _, target in data[:4]:
        target[1::2] = -100
    # Means of unequal batches are no concern of this test.
    options = {"data": data, "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.0)}
    train(tmp_path, keep, **options)
    alone = torch.load(tmp_path / "values0.pt")
    train(tmp_path, keep, strategy=strategy, **options)
    for rank in (0, 1):
        for name, values in torch.load(tmp_path / f"values{rank}.pt").items():
            # The weights differ by float32's rounding of the averaged gradients.
            assert values == pytest.approx(alone[name], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    "options", [{"head": "network.9"}, {"head": "network.1"}, {"head": "network.2", "layers": ["x"]}]
)
def test_modules_that_are_not_there_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="neural_collapse"):
        trainer(tmp_path, [NeuralCollapse(**options)]).fit(Called(), PerProcess(batches()))


def test_a_text_is_no_list_of_layers():
    with pytest.raises(ValueError, match="neural_collapse: layers='network.0' came; give a list of module names."):
        NeuralCollapse("network.2", layers="network.0")


def test_inputs_come_in_the_precision_of_the_run(tmp_path):
    monitor = NeuralCollapse("network.2", samples=8)
    trainer(tmp_path, [monitor], precision="64-true").fit(Called(), PerProcess(batches(1)))
    assert monitor.values["nc1"][0] > 0
