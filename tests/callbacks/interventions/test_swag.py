"""A Gaussian over the weights of the last epochs: its moments, its draws, and going on from a checkpoint."""

import pytest
import torch
from torch import nn

from lightning_losses.callbacks import SWAG
from lightning_losses.optim.gaussian_weights import GaussianWeights
from tests.callbacks.training import PerProcess, Tiny, batches, train, trainer


def collected(rank=3, visits=6):
    generator = torch.Generator().manual_seed(2)
    # Far from 0, so that second moments less squared means would cancel.
    seen = [100 + torch.randn(4, generator=generator, dtype=torch.float64) for _ in range(visits)]
    weights = GaussianWeights(rank)
    for one in seen:
        weights.collect({"w": one})
    return weights, torch.stack(seen)


def test_moments_and_deviations_are_those_of_all_visits():
    weights, seen = collected()
    torch.testing.assert_close(weights.mean["w"], seen.mean(dim=0), rtol=1e-12, atol=0)
    torch.testing.assert_close(weights.variance()["w"], seen.var(dim=0, unbiased=False), rtol=1e-9, atol=0)
    means = torch.stack([seen[: count + 1].mean(dim=0) for count in range(len(seen))])
    deviations = torch.stack([part["w"] for part in weights.state_dict()["deviations"]])
    torch.testing.assert_close(deviations, (seen - means)[-3:], rtol=1e-9, atol=1e-12)


def test_draws_have_the_mean_and_half_of_both_covariances():
    weights, _ = collected()
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([weights.sample(generator)["w"] for _ in range(8000)])
    # Errors of 1/sqrt(8000) standard deviations.
    torch.testing.assert_close(draws.mean(dim=0), weights.mean["w"], rtol=0, atol=0.05)
    low = torch.stack([part["w"] for part in weights.state_dict()["deviations"]])
    want = 0.5 * (weights.variance()["w"].diag() + low.T @ low / 2)
    torch.testing.assert_close(torch.cov(draws.T), want, rtol=0.1, atol=0.05)
    assert torch.equal(weights.sample(generator, scale=0.0)["w"], weights.mean["w"])


def test_draws_are_the_same_whatever_device_is_the_default():
    weights, _ = collected()
    want = weights.sample(torch.Generator().manual_seed(0))["w"]
    with torch.device("meta"):
        assert torch.equal(weights.sample(torch.Generator("cpu").manual_seed(0))["w"], want)


def test_one_visit_has_no_variance():
    weights, _ = collected(visits=1)
    with pytest.raises(ValueError, match="a variance needs 2"):
        weights.sample(torch.Generator())


def fit(folder, start=0.5, **options):
    swag = SWAG(start=start, rank=3)
    trainer(folder, [swag], max_epochs=4).fit(module := Tiny(), PerProcess(batches(2)), **options)
    return swag, module


def test_it_collects_the_last_epochs_and_changes_no_training(tmp_path):
    swag, module = fit(tmp_path)
    plain = train(tmp_path, lambda: [], data=batches(2), max_epochs=4)
    assert swag.weights.visits == 2
    assert all(torch.equal(plain[f"network.{name}"], p) for name, p in module.network.named_parameters())
    ensemble = swag.ensemble(module.network, samples=5, seed=1)
    assert len(ensemble.members) == 5 and not ensemble.training
    again = swag.ensemble(module.network, samples=5, seed=1)
    inputs = batches(1)[0][0]
    assert torch.equal(ensemble(inputs), again(inputs))


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    path = tmp_path / "half.ckpt"
    options = {"data": batches(2), "max_epochs": 2}
    whole, resumed = SWAG(start=0.0), SWAG(start=0.0)
    train(tmp_path, lambda: [SWAG(start=0.0)], save=path, **options)
    options["max_epochs"] = 4
    train(tmp_path, lambda: [whole], **options)
    train(tmp_path, lambda: [resumed], ckpt_path=path, **options)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    got, want = (swag.weights.sample(one) for swag, one in zip((resumed, whole), generators, strict=True))
    assert whole.weights.visits == 4 and all(torch.equal(got[name], want[name]) for name in want)


def test_batch_norm_is_renewed_for_each_copy():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, momentum=0.5))
    swag = SWAG()
    for _ in range(2):
        swag.weights.collect({name: p + torch.randn_like(p) for name, p in network.named_parameters()})
    with pytest.raises(ValueError, match="BatchNorm; give batches="):
        swag.ensemble(network)
    data = batches(3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for member in swag.ensemble(
        network, samples=2, batches=({"inputs": x, "target": y} for x, y in data)
    ).members.values():
        hidden = torch.stack([member[0](inputs).mean(dim=0) for inputs, _ in data])
        torch.testing.assert_close(member[1].running_mean, hidden.mean(dim=0), rtol=1e-5, atol=1e-6)
        assert member[1].momentum == 0.5
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())


def test_weights_of_another_network_and_unknown_parts_are_refused(tmp_path):
    swag, _ = fit(tmp_path)
    with pytest.raises(ValueError, match="give the network trained"):
        swag.ensemble(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="the module's parts are 'network'"):
        train(tmp_path, lambda: [SWAG(part="backbone")])


def test_renewing_batch_norm_beside_dropout_draws_no_number_of_the_runs():
    swag, network = SWAG(), nn.Sequential(nn.Dropout(), nn.Linear(5, 4), nn.BatchNorm1d(4))
    for _ in range(2):
        swag.weights.collect(dict(network.named_parameters()))
    before, inputs = torch.get_rng_state(), torch.ones(1, 5)
    first = swag.ensemble(network, samples=2, batches=batches(2))(inputs)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(1)
    assert torch.equal(first, swag.ensemble(network, samples=2, batches=batches(2))(inputs))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 0}, "samples=0 came"),
        ({"scale": -1.0}, "scale=-1.0 came"),
        ({"batches": []}, "without a batch"),
        ({"average": "median"}, "average"),
    ],
)
def test_an_ensemble_of_nothing_is_refused(options, words):
    swag, network = SWAG(), nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
    for _ in range(2):
        swag.weights.collect(dict(network.named_parameters()))
    with pytest.raises(ValueError, match=words):
        swag.ensemble(network, **{"batches": batches(1), **options})


def test_weights_of_a_training_that_failed_are_refused():
    swag, network = SWAG(), nn.Linear(5, 4)
    for factor in (1.0, torch.nan):
        swag.weights.collect({name: factor * p for name, p in network.named_parameters()})
    with pytest.raises(ValueError, match="weight is not finite"):
        swag.ensemble(network)


def test_a_regression_has_the_mean_of_outputs():
    swag, network = SWAG(), nn.Linear(2, 1)
    for _ in range(2):
        nn.init.normal_(network.weight)
        swag.weights.collect(dict(network.named_parameters()))
    inputs = torch.randn(3, 2)
    with pytest.raises(ValueError, match="one logit for each row came"):
        swag.ensemble(network)(inputs)
    ensemble = swag.ensemble(network, samples=4, average="logits")
    want = torch.stack([member(inputs) for member in ensemble.members.values()]).mean(dim=0)
    torch.testing.assert_close(ensemble(inputs), want)


def test_a_second_training_begins_anew(tmp_path):
    swag = SWAG(start=0.0)
    for _ in range(2):
        trainer(tmp_path, [swag], max_epochs=3).fit(Tiny(), PerProcess(batches(2)))
    assert swag.weights.visits == 3
