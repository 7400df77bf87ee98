"""What the terms of an objective do to each other, as the monitor records it."""

from functools import partial

import pytest
import torch

from lightning_losses import CrossEntropy, Focal
from lightning_losses.balancing import PCGrad
from lightning_losses.callbacks import GradientConflict
from lightning_losses.modules.language_model import LanguageModel, LanguageModelDistiller
from lightning_losses.networks.transformer import Transformer
from lightning_losses.objective import Objective, Term
from tests.balancing.test_training import EveryPolicy, batches, fit
from tests.callbacks.training import Tiny


class Opposed(EveryPolicy):
    """Two terms, one of which is twice the other's opposite."""

    def __init__(self, policy=None):
        super().__init__(["MGDA"])
        terms = {"up": Term(lambda logits_a: logits_a.mean(), 2.0), "down": Term(lambda logits_a: -logits_a.mean())}
        self.objective = self.objectives["MGDA"] = Objective(terms, balancing=policy)


def test_it_records_cosines_lengths_and_weights(tmp_path):
    monitor = GradientConflict(every_n_steps=2, folder=tmp_path)
    module = fit(Opposed(PCGrad()), batches((5, 7)), monitor=monitor, accumulate_grad_batches=2, max_epochs=2)
    assert monitor.steps == [0, 2]
    assert monitor.values["cosine/up/down"] == pytest.approx([-1, -1])
    assert monitor.values["length/up"] == pytest.approx([2 * value for value in monitor.values["length/down"]])
    # Each loses all that it holds of the other, which is itself.
    assert monitor.values["weight/up"] == pytest.approx([1.5, 1.5])
    assert monitor.values["weight/down"] == pytest.approx([3, 3])
    assert all(gradient.abs().max() < 1e-6 for name, gradient in module.noted[0].items() if "trunk" in name)
    assert (tmp_path / "gradient_conflict.png").stat().st_size > 10_000


def test_without_a_policy_it_changes_nothing():
    seldom = GradientConflict(every_n_steps=100)
    watched, plain = fit(Opposed(), batches()), fit(Opposed(), batches(), monitor=seldom)
    assert "weight/up" not in watched.recorded and len(watched.recorded["cosine/up/down"]) == 6
    assert seldom.steps == [0]
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name])


def test_a_module_without_terms_is_refused():
    with pytest.raises(ValueError, match="gradient_conflict: Tiny has no objective whose terms could be watched"):
        GradientConflict().on_train_start(None, Tiny())


def test_a_fused_head_takes_no_policy_and_shows_no_terms():
    network, terms = (
        Transformer(9, context_length=4, width=8, depth=1, heads=2),
        {"ce": CrossEntropy(), "focal": Focal()},
    )
    with pytest.raises(ValueError, match="^gradient_conflict: LanguageModel adds its terms up in a fused head"):
        GradientConflict().on_train_start(None, LanguageModel(network, Objective(terms)))
    for build in (LanguageModel, partial(LanguageModelDistiller, network)):
        with pytest.raises(
            ValueError, match="^LanguageModel.*: the objective has balancing=PCGrad, .*leave balancing out"
        ):
            build(network=network, objective=Objective(terms, balancing=PCGrad()))
