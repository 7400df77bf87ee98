import lightning as L
import pytest
import torch
from torch import nn

from lightning_losses import CrossEntropy, Objective, RankMixupMNDCG, Term
from lightning_losses.mixins.mixup import mix, mixture_weights
from lightning_losses.modules.domain_mixup_classifier import DomainMixupClassifier
from lightning_losses.modules.manifold_mixup_classifier import ManifoldMixupClassifier
from lightning_losses.modules.mixup_classifier import MixupClassifier

MIXUP = {"mixup": Term(CrossEntropy(), inputs={"logits": "mixup_logits", "target": "mixup_target"})}


def batch(rows=6):
    return {"inputs": torch.randn(rows, 4), "target": torch.arange(rows) % 3}


def module(terms, **options):
    return MixupClassifier(network=nn.Linear(4, 3), objective=Objective(terms), num_classes=3, **options)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_mixtures_are_mixed_like_their_targets(size):
    target = torch.arange(8)
    inputs, mixed = mix(torch.eye(8), target, 8, size=size)
    torch.testing.assert_close(inputs, mixed)
    torch.testing.assert_close(mixed.sum(-1), torch.ones(8))
    assert (mixed > 0).sum(-1).max() <= size
    # The same weights for all samples of the batch.
    assert len({round(float(weight), 6) for weight in mixed.diagonal()}) <= 2**size


@pytest.mark.parametrize("alpha", [1e-310, 1e-4, 1e-3, 0.009])
def test_near_0_hardly_anything_is_mixed(alpha):
    torch.manual_seed(0)
    weights = mixture_weights(3, alpha, (500,))
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(500))
    assert (weights.max(dim=1).values > 0.99).float().mean() > 0.9
    # Each is the whole as often: five standard deviations.
    torch.testing.assert_close(weights.mean(dim=0), torch.full((3,), 1 / 3), rtol=0, atol=0.11)


def test_a_size_that_is_no_whole_number_is_refused():
    with pytest.raises(ValueError, match="^mix: size=2.5 came; give a whole number"):
        mix(torch.eye(3), torch.arange(3), 3, size=2.5)


def test_loss_of_mixtures_is_the_mixture_of_losses():
    torch.manual_seed(0)
    learner, data = module(MIXUP), batch()
    tensors = learner.objective_tensors({**data, "logits": learner(data["inputs"])})
    logits, target = tensors["mixup_logits"], tensors["mixup_target"]
    each = -logits.log_softmax(-1)
    torch.testing.assert_close(learner.objective(**tensors).total, (target * each).sum(-1).mean())


def test_there_are_as_many_mixtures_as_asked_for_in_blocks():
    learner, data = module({"ce": CrossEntropy(), "rank": RankMixupMNDCG()}, mixup_count=3), batch()
    output = learner.training_step(data, 0)
    assert torch.isfinite(output["loss"])
    tensors = learner.objective_tensors({**data, "logits": learner(data["inputs"])})
    assert tensors["mixup_logits"].shape == (18, 3)
    own = nn.functional.one_hot(data["target"], 3).bool()
    assert (tensors["mixup_target"].reshape(3, 6, 3)[:, own] > 0).all()


def test_nothing_is_mixed_that_no_term_takes():
    learner, data = module({"ce": CrossEntropy()}), batch()
    assert "mixup_logits" not in learner.objective_tensors({**data, "logits": learner(data["inputs"])})


@pytest.mark.parametrize("soft", [False, True], ids=["indices", "probabilities"])
def test_ignored_samples_are_mixed_with_nothing(soft):
    kept = torch.tensor([True, False, True, True, False, True])
    target = torch.arange(6).masked_fill(~kept, -100)
    if soft:
        target = torch.eye(6) * kept.unsqueeze(-1)
    inputs, mixed = mix(torch.eye(6), target, 6, size=3)
    torch.testing.assert_close(mixed, inputs * kept.unsqueeze(-1))
    torch.testing.assert_close(mixed[kept].sum(-1), torch.ones(4))
    torch.testing.assert_close(inputs[~kept], torch.eye(6)[~kept])


@pytest.mark.parametrize("count", [1, 2])
def test_the_loss_of_mixtures_is_that_of_the_kept_samples_alone(count, monkeypatch):
    """Whatever the others hold, by one permutation of the kept ones."""
    learner = module(MIXUP, mixup_count=count)
    kept, data = torch.tensor([0, 2, 3]), batch(5)
    data["target"][[1, 4]], data["inputs"][[1, 4]] = -100, 1e3
    alone = {name: value[kept] for name, value in data.items()}
    # Drawn from five, the kept ones stand in the order 2, 0, 3, which is 1, 0, 2 among themselves.
    orders = {5: torch.tensor([4, 2, 0, 1, 3]), 3: torch.tensor([1, 0, 2])}
    monkeypatch.setattr(torch, "randperm", lambda size: orders[size])
    outcomes = []
    for tensors in (data, alone):
        torch.manual_seed(0)
        tensors = learner.objective_tensors({**tensors, "logits": learner(tensors["inputs"])})
        loss = learner.objective(**tensors).total
        outcomes.append([loss.detach(), *torch.autograd.grad(loss, list(learner.network.parameters()))])
        assert learner.objective.terms["mixup"].count(tensors).samples == 3 * count
    torch.testing.assert_close(*outcomes)


def test_gradients_flow_through_the_mixtures():
    learner = module(MIXUP)
    learner.training_step(batch(), 0)["loss"].backward()
    assert learner.network.weight.grad.abs().sum() > 0


def test_missing_tensors_are_named():
    with pytest.raises(ValueError, match="mixtures need 'inputs', 'target'; the step offered 'logits'"):
        module(MIXUP).objective_tensors({"logits": torch.zeros(2, 3)})


@pytest.mark.parametrize("options", [{"mixup_count": 0}, {"mixup_size": 1}, {"mixup_alpha": 0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        module(MIXUP, **options)


def test_a_target_out_of_range_is_refused():
    with pytest.raises(ValueError, match="mix: target 3 came with 3 classes"):
        mix(torch.eye(2), torch.tensor([0, 3]), 3)


def test_integer_inputs_are_refused():
    with pytest.raises(ValueError, match="int64"):
        mix(torch.zeros(2, 3, dtype=torch.long), torch.tensor([0, 1]), 2)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (MixupClassifier, {}),
        (ManifoldMixupClassifier, {"manifold_layers": ["0"]}),
        (DomainMixupClassifier, {"num_domains": 2}),
    ],
    ids=["inputs", "layers", "domains"],
)
def test_evaluation_mixes_nothing_and_draws_nothing(kind, options):
    class Validated(kind):
        def validation_step(self, batch, batch_idx):
            state = torch.get_rng_state()
            output = self.apply_objective(**batch, logits=self(batch["inputs"]))
            assert torch.equal(torch.get_rng_state(), state)
            losses.append(output["loss"])

    losses = []
    learner = Validated(network=nn.Sequential(nn.Linear(4, 3)), objective=Objective(MIXUP), num_classes=3, **options)
    data = {**batch(), "domain": torch.arange(6) % 2}
    data["target"][1] = -100
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.validate(learner, torch.utils.data.DataLoader([data], batch_size=None), verbose=False)
    # Without a trainer it is the mode that tells.
    learner.trainer = None
    learner.eval().validation_step(data, 0)
    for loss in losses:
        torch.testing.assert_close(loss, nn.functional.cross_entropy(learner(data["inputs"]), data["target"]))
