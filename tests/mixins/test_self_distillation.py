"""Past predictions and tapped features."""

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_losses import Objective
from lightning_losses.modules import Classifier
from tests.distributed.processes import in_group, run_on_processes


def against_the_past(logits, past_probabilities):
    return F.cross_entropy(logits, past_probabilities)


def smooth_features(features):
    return features.square().mean()


def module():
    torch.manual_seed(0)
    return Classifier(
        nn.Linear(4, 3),
        Objective({"past": against_the_past}),
        num_classes=3,
        optimizer=lambda p: torch.optim.SGD(p, 1.0),
    )


class Samples(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        inputs = torch.randn(4, generator=torch.Generator().manual_seed(index))
        return {"inputs": inputs, "target": torch.tensor(index % 3), "index": torch.tensor(index)}


def fit(classifier, folder, epochs, ckpt_path=None):
    loader = torch.utils.data.DataLoader(Samples(), batch_size=4)
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, max_epochs=epochs,
    )  # fmt: skip
    trainer.fit(classifier, loader, loader, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def test_unseen_samples_have_their_one_hot_target_and_seen_ones_their_last_prediction():
    classifier, step = module(), next(iter(torch.utils.data.DataLoader(Samples(), batch_size=4)))
    first = classifier.objective_tensors({"logits": torch.zeros(4, 3), **step})["past_probabilities"]
    assert torch.equal(first, F.one_hot(step["target"], 3).float())
    output = classifier.training_step(step, 0)
    second = classifier.objective_tensors({"logits": torch.zeros(4, 3), **step})["past_probabilities"]
    torch.testing.assert_close(second, output["logits"].softmax(-1))
    assert not second.requires_grad


def test_past_predictions_have_the_precision_of_the_logits():
    classifier, step = module().double(), next(iter(torch.utils.data.DataLoader(Samples(), batch_size=4)))
    step["inputs"] = step["inputs"].double()
    output = classifier.training_step(step, 0)
    past = classifier.objective_tensors({"logits": output["logits"], **step})["past_probabilities"]
    assert torch.equal(past, output["logits"].softmax(-1))


@pytest.mark.parametrize("former", [False, True], ids=["its own checkpoint", "one of before"])
def test_resumed_run_equals_the_uninterrupted_one(former, tmp_path):
    whole, first, resumed = module(), module(), module()
    fit(whole, tmp_path, 3)
    fit(first, tmp_path, 1).save_checkpoint(tmp_path / "one.ckpt")
    if former:
        checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
        rows = checkpoint.pop("sample_states")["past_probabilities"]["probabilities"]
        checkpoint["past_predictions"] = {"probabilities": torch.cat([rows, torch.zeros(8, 3)]), "seen": rows[:, 0] > 0}
        torch.save(checkpoint, tmp_path / "one.ckpt")
    fit(resumed, tmp_path, 3, tmp_path / "one.ckpt")
    assert torch.equal(resumed.network.weight, whole.network.weight)
    assert not torch.equal(first.network.weight, whole.network.weight)


def test_missing_index_is_one_sentence():
    with pytest.raises(ValueError, match="needs the samples' 'index'; the step offered 'inputs', 'logits', 'target'"):
        module().training_step({"inputs": torch.zeros(2, 4), "target": torch.tensor([0, 1])}, 0)


def test_tapped_features_reach_the_objective_with_their_gradient():
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    classifier = Classifier(network, Objective({"smooth": smooth_features}), num_classes=3, feature_layer="1")
    batch = {"inputs": torch.randn(2, 4), "target": torch.tensor([0, 1])}
    classifier.training_step(batch, 0)["loss"].backward()
    assert network[0].weight.grad.abs().sum() > 0
    assert network[2].weight.grad is None


def test_network_that_does_not_tell_its_stages_is_refused():
    with pytest.raises(ValueError, match="Linear has no feature_info that lists its stages"):
        Classifier(nn.Linear(4, 3), Objective({"smooth": smooth_features}), num_classes=3)


class Probe(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.LazyLinear(2)

    def forward(self, features):
        return self.head(features).square().mean()


def test_losses_that_see_features_take_their_shapes_from_an_example():
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    build = {"network": network, "num_classes": 3, "feature_layer": "1"}
    classifier = Classifier(objective=Objective({"probe": Probe()}), example_inputs=torch.zeros(2, 4), **build)
    assert classifier.state_dict()["objective.terms.probe.loss.head.weight"].shape == (2, 5)
    assert len(classifier.configure_optimizers().param_groups[0]["params"]) == 6
    with pytest.raises(ValueError, match="give example_inputs="):
        Classifier(objective=Objective({"probe": Probe()}), **build)


def seen_by_each():
    """Each process its own samples; afterwards all have the predictions of all."""
    rank = torch.distributed.get_rank()
    classifier, samples = module(), [Samples()[index] for index in range(8)]
    for own in (range(3), range(3, 8)):
        batch = torch.utils.data.default_collate([samples[index] for index in own])
        if rank == own.start // 3:
            output = classifier.training_step(batch, 0)
    whole = torch.utils.data.default_collate(samples)
    past = classifier.objective_tensors({"logits": torch.zeros(8, 3), **whole})["past_probabilities"]
    torch.testing.assert_close(past, classifier(whole["inputs"]).softmax(dim=-1))
    assert len(output["logits"]) == (3, 5)[rank]


@pytest.mark.distributed
def test_a_sample_that_changes_its_process_keeps_its_past():
    run_on_processes(in_group, 2, seen_by_each)


def test_only_training_is_remembered():
    class SharedStep(Classifier):
        def validation_step(self, batch, batch_idx):
            return self.training_step(batch, batch_idx)

    torch.manual_seed(0)
    shared = SharedStep(nn.Linear(4, 3), Objective({"past": against_the_past}), num_classes=3)
    loader = torch.utils.data.DataLoader(Samples(), batch_size=8)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                        enable_model_summary=False)  # fmt: skip
    trainer.validate(shared, loader, verbose=False)
    assert not shared.sample_states
