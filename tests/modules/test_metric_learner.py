import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_losses import AMCL, CrossEntropy, EnergyConfusion, NormalizedSoftmax, Objective, Term, Triplet
from lightning_losses.data.loading import SamplesInMemory
from lightning_losses.modules.metric_learner import MetricLearner, embedding_scores

INPUTS = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
TARGET = (INPUTS[:, 0] > 0).long() + 2 * (INPUTS[:, 1] > 0).long()
BATCH = {"inputs": INPUTS, "target": TARGET}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8))


def test_it_trains_and_logs_the_scores_of_the_whole_split():
    module = MetricLearner(
        network(), Objective({"triplet": Triplet(margin=0.2)}), optimizer=lambda given: torch.optim.Adam(given, 0.02)
    )
    before = embedding_scores(module(INPUTS).detach(), TARGET)
    trainer = L.Trainer(
        max_epochs=15, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, check_val_every_n_epoch=15,
    )  # fmt: skip
    rows = SamplesInMemory(INPUTS, TARGET)
    trainer.fit(module, DataLoader(rows, 30, collate_fn=dict), DataLoader(rows, 16, collate_fn=dict))
    after = embedding_scores(module(INPUTS).detach(), TARGET)
    assert after["map_at_r"] > before["map_at_r"] + 0.1
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert {name: logged[f"val/{name}"] for name in after} == pytest.approx(after, abs=1e-6)
    assert "val/loss" in logged and "train/loss/triplet" in logged


def test_class_vectors_learn_where_the_objective_takes_logits():
    module = MetricLearner(network(), Objective({"ns": NormalizedSoftmax()}), num_classes=4)
    module.training_step(BATCH, 0)["loss"].backward()
    assert module.head.weight.grad.any() and module.network[2].weight.grad.any()
    with pytest.raises(ValueError) as refusal:
        MetricLearner(network(), Objective({"ns": NormalizedSoftmax()}))
    assert str(refusal.value) == (
        "MetricLearner: the objective takes logits; give num_classes, so that each class has a vector."
    )


@pytest.mark.parametrize("loss", [CrossEntropy(), nn.CrossEntropyLoss()])
def test_a_loss_that_takes_cosines_as_they_are_is_refused(loss):
    term = Term(loss, inputs={} if isinstance(loss, CrossEntropy) else {"input": "logits"})
    with pytest.raises(ValueError) as refusal:
        MetricLearner(network(), Objective({"plain": term}), num_classes=4)
    assert str(refusal.value) == (
        f"MetricLearner: term 'plain' ({type(loss).__name__}) came, and the logits are cosines, on whose softmax no "
        "class can become likely; give a loss that scales them, such as NormalizedSoftmax "
        "(objective=normalized_softmax), or leave the term out (~objective.terms.plain)."
    )


def test_energy_confusion_trains_the_embedding_layer_alone():
    def gradients(inputs):
        module = MetricLearner(network(), Objective({"confusion": Term(EnergyConfusion(), inputs=inputs)}))
        module.training_step(BATCH, 0)["loss"].backward()
        return [module.network[place].weight.grad for place in (0, 2)]

    alone, everything = gradients({"embeddings": "layer_embeddings"}), gradients({})
    assert alone[0] is None and everything[0].any()
    torch.testing.assert_close(alone[1], everything[1])


def test_a_second_view_is_embedded_where_the_objective_takes_one():
    module = MetricLearner(network(), Objective({"amcl": AMCL(heads=1, head_dim=4, feature_dim=8)}))
    step = module.training_step({**BATCH, "other_inputs": INPUTS + 0.1}, 0)
    torch.testing.assert_close(step["embeddings_b"], module(INPUTS + 0.1))


def test_ignored_samples_are_no_class_of_validation():
    module = MetricLearner(network(), Objective({"triplet": Triplet()}))
    kept = torch.arange(60) % 3 > 0
    output = module.validation_step({"inputs": INPUTS, "target": TARGET.masked_fill(~kept, -100)}, 0)
    ((embeddings, target),) = module._evaluated
    assert torch.equal(embeddings, output["embeddings"][kept]) and torch.equal(target, TARGET[kept])


def test_a_network_without_a_last_linear_layer_is_refused():
    with pytest.raises(ValueError) as refusal:
        MetricLearner(nn.LayerNorm(4), Objective({"ns": NormalizedSoftmax()}), num_classes=4)
    assert str(refusal.value) == (
        "MetricLearner: LayerNorm ends with a LayerNorm; give a network that ends with an nn.Linear, whose outputs are "
        "the embeddings."
    )


def test_splits_that_tell_nothing_have_no_score():
    assert all(value != value for value in embedding_scores(torch.randn(3, 2), torch.arange(3)).values())


def test_an_interrupted_pass_leaves_nothing_behind():
    confusion = Term(EnergyConfusion(), inputs={"embeddings": "layer_embeddings"})
    module = MetricLearner(network(), Objective({"confusion": confusion}))
    module.validation_step(BATCH, 0)
    with pytest.raises(RuntimeError):
        module.validation_step({"inputs": torch.zeros(2, 3), "target": TARGET[:2]}, 1)
    assert not module.network[2]._forward_pre_hooks
    module.on_validation_epoch_start()
    assert module._evaluated == []
