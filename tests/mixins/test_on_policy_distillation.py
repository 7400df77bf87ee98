"""Completions that the student or the teacher draws, and their loss."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_losses import CrossEntropy, GeneralizedJSD, Objective
from lightning_losses.decoding import generate
from lightning_losses.modules.on_policy_distiller import OnPolicyDistiller
from lightning_losses.networks.transformer import Transformer

V = 11


def networks():
    torch.manual_seed(0)
    pair = [Transformer(V, context_length=12, width=width, depth=1, heads=2) for width in (8, 12)]
    for network in pair:
        for parameter in network.parameters():
            parameter.data.mul_(8.0 if parameter.ndim > 1 else 1.0)
    return pair


def distiller(**options):
    student, teacher = networks()
    settings = {"prompt_length": 3, "max_new_tokens": 5, "on_policy_share": 1.0} | options
    return OnPolicyDistiller(teacher, network=student, objective=Objective({"jsd": GeneralizedJSD()}), **settings)


def batch(rows=4, ignored=0, seed=1):
    tokens = torch.randint(V, (rows, 9), generator=torch.Generator().manual_seed(seed))
    target = tokens[:, 1:].clone()
    target[:, :ignored] = -100
    return {"inputs": tokens[:, :-1], "target": target}


@pytest.mark.parametrize("ignored", [0, 4])
def test_the_student_completes_the_prompts(ignored):
    module, given = distiller(), batch(ignored=ignored)
    drawn = module.on_policy_batch(given, 0)
    prompt = max(3, ignored + 1)
    assert (drawn["inputs"][:, :prompt] == given["inputs"][:, :prompt]).all()
    assert ((drawn["target"] != -100).nonzero()[:, 1].unique() == torch.arange(prompt - 1, prompt + 4)).all()
    assert (drawn["target"][:, prompt - 1 : -1] == drawn["inputs"][:, prompt:]).all()
    assert (drawn["inputs"][:, prompt : prompt + 3] != given["inputs"][:, prompt : prompt + 3]).any()


def test_the_loss_is_the_divergence_of_both_networks_on_what_was_drawn():
    module = distiller(sampling_temperature=0.7)
    drawn, given = module.on_policy_batch(batch(), 3), batch()
    value = module.training_step(given, 3)["loss"]
    student, teacher = module.network(drawn["inputs"]), module.teacher(drawn["inputs"])
    expected = GeneralizedJSD()(student, teacher, drawn["target"])
    torch.testing.assert_close(value, expected)
    by_value, by_definition = (
        torch.autograd.grad(loss, list(module.network.parameters()), retain_graph=True) for loss in (value, expected)
    )
    for one, other in zip(by_value, by_definition, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_the_branch_is_the_students_as_often_as_it_should_be():
    module, given = distiller(on_policy_share=0.3), batch()
    own = [torch.equal(module.on_policy_batch(given, number)["inputs"], given["inputs"]) for number in range(400)]
    assert 1 - sum(own) / 400 == pytest.approx(0.3, abs=0.08)


def test_with_data_alone_the_prompts_are_ignored_and_nothing_else_changes():
    module, given = distiller(on_policy_share=0.0), batch()
    kept = module.on_policy_batch(given, 0)
    assert (kept["inputs"] == given["inputs"]).all() and (kept["target"][:, :2] == -100).all()
    assert (kept["target"][:, 2:] == given["target"][:, 2:]).all()


def test_the_teacher_completes_the_others():
    module, given = distiller(on_policy_share=0.0, teacher_completes=True, sampling_temperature=0.0), batch()
    drawn = module.on_policy_batch(given, 0)
    expected = generate(module.teacher, given["inputs"][:, :3], 5, temperature=0.0).tokens
    assert (drawn["inputs"] == expected[:, :-1]).all()
    assert not module.teacher.training


def test_what_follows_a_stop_token_and_rows_without_targets_are_ignored():
    module, given = distiller(stop_token=2, max_new_tokens=9), batch(rows=40)
    given["target"][0] = -100
    drawn = module.on_policy_batch(given, 0)
    assert (drawn["target"][0] == -100).all()
    stopped = 0
    for row in drawn["target"][1:]:
        completion = row[row != -100].tolist()
        assert 2 not in completion[:-1]
        stopped += completion[-1] == 2
    assert stopped > 3


def test_batches_of_transformers_collators_do():
    module, given = distiller(), batch(ignored=3)
    tokens = torch.cat([given["inputs"], given["target"][:, -1:]], 1)
    labels = tokens.clone()
    labels[:, :4] = -100
    collated = {"input_ids": tokens, "labels": labels, "attention_mask": torch.ones_like(tokens)}
    drawn, ours = (module.on_policy_batch(each, 0) for each in (collated, given))
    assert (drawn["inputs"] == ours["inputs"]).all() and (drawn["target"] == ours["target"]).all()
    collated["attention_mask"][0, 0] = 0
    with pytest.raises(ValueError, match="rows padded at their left came"):
        module.on_policy_batch(collated, 0)


def trained(folder, epochs, ckpt_path=None, save=None):
    module = distiller(on_policy_share=0.5, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5))
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, default_root_dir=folder, accumulate_grad_batches=2, limit_val_batches=0,
    )  # fmt: skip
    loader = DataLoader([batch(seed=seed) for seed in range(4)], batch_size=None)
    trainer.fit(module, loader, loader, ckpt_path=ckpt_path, weights_only=True)
    if save is not None:
        trainer.save_checkpoint(save)
    return [parameter.detach() for parameter in module.network.parameters()]


def test_a_run_that_goes_on_is_an_uninterrupted_one(tmp_path):
    trained(tmp_path, 1, save=tmp_path / "half.ckpt")
    torch.manual_seed(77)
    resumed = trained(tmp_path, 2, ckpt_path=tmp_path / "half.ckpt")
    for one, other in zip(resumed, trained(tmp_path, 2), strict=True):
        assert torch.equal(one, other)


def test_the_student_comes_nearer_on_its_own_sequences():
    module = distiller()
    optimizer = torch.optim.Adam(module.network.parameters(), lr=0.02)
    losses = []
    for number in range(60):
        loss = module.training_step(batch(rows=16, seed=number), number)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="on_policy_share=2"):
        distiller(on_policy_share=2)
    with pytest.raises(ValueError, match="prompt_length=0"):
        distiller(prompt_length=0)
    packed = batch() | {"documents": torch.zeros(4, 8, dtype=torch.long)}
    with pytest.raises(ValueError, match="a batch with documents came"):
        distiller().on_policy_batch(packed, 0)
    with pytest.raises(ValueError, match="give at most 13 tokens together"):
        distiller(max_new_tokens=30).training_step(batch(), 0)
    module = OnPolicyDistiller(
        network=nn.Sequential(nn.Embedding(V, 4), nn.Linear(4, V)),
        objective=Objective({"ce": CrossEntropy()}),
        on_policy_share=0.0,
        teacher_completes=True,
    )
    with pytest.raises(ValueError, match="teacher_completes came, but no teacher is set"):
        module.on_policy_batch(batch(), 0)
