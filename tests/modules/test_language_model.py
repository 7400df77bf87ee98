import copy
import warnings
from types import SimpleNamespace

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from lightning_losses.data.packing import pack_documents
from lightning_losses.data.stdlib_text import TextDataset
from lightning_losses.losses import KD, AlignedVocabulary, CrossEntropy, Focal, ForwardKL
from lightning_losses.modules.language_model import LanguageModel, LanguageModelDistiller
from lightning_losses.modules.peak_memory import PeakMemory
from lightning_losses.networks.transformer import Transformer
from lightning_losses.objective import Linear, Objective, Term


def network(width=12, tied=True):
    return Transformer(vocabulary_size=50, context_length=16, width=width, depth=1, heads=2, tied=tied)


def batch(size=3):
    tokens = torch.randint(50, (size, 17))
    return {"inputs": tokens[:, :-1], "target": tokens[:, 1:]}


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.network.named_parameters()}


def fit(module, steps=6, **options):
    torch.manual_seed(0)
    dataset = TextDataset(torch.randint(50, (6 * 4 * 16 + 1,), dtype=torch.uint8), block_length=16)
    loader = DataLoader(dataset, batch_size=4, collate_fn=lambda found: found)
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="GPU available but not used")
        trainer = L.Trainer(
            accelerator="cpu", devices=1, max_steps=steps, enable_model_summary=False, **settings, **options
        )
        trainer.fit(module, loader, loader)
    return trainer


@pytest.mark.parametrize("impl", ["auto", "reference", "chunked", "recompute"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_fused_loss_is_the_plain_one(impl, tied):
    model, tokens = LanguageModel(network(tied=tied), Objective({"ce": CrossEntropy(None, 0.1)}), impl=impl), batch()
    loss = model.training_step(tokens, 0)["loss"]
    loss.backward()
    found = gradients(model)
    model.zero_grad()
    logits = model.network(tokens["inputs"])
    plain = F.cross_entropy(logits.flatten(0, 1), tokens["target"].flatten(), label_smoothing=0.1)
    plain.backward()
    torch.testing.assert_close(loss, plain)
    # Sums of 48 float32 rows in another order.
    torch.testing.assert_close(found, gradients(model), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("impl", ["auto", "reference", "chunked"])
def test_the_fused_distillation_is_the_plain_one(impl):
    student, teacher, tokens = network(tied=False), network(width=20), batch()
    torch.nn.init.normal_(teacher.tokens.weight)
    objective = Objective({"ce": Term(CrossEntropy(), 0.1), "kd": Term(KD(temperature=2.0), 0.9)})
    model = LanguageModelDistiller(teacher, network=student, objective=objective, impl=impl)
    loss = model.training_step(tokens, 0)["loss"]
    loss.backward()
    found = gradients(model)
    model.zero_grad()
    logits, target = student(tokens["inputs"]).flatten(0, 1), tokens["target"].flatten()
    plain = 0.1 * F.cross_entropy(logits, target)
    plain = plain + 0.9 * KD(temperature=2.0)(logits, teacher(tokens["inputs"]).flatten(0, 1).detach(), target)
    plain.backward()
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(found, gradients(model), rtol=1e-4, atol=1e-6)
    assert not any("teacher" in name for name in model.state_dict())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_term_that_leaves_out_the_target_counts_every_token_of_the_step():
    torch.manual_seed(0)
    student, teacher = network(tied=False), network(width=20)
    torch.nn.init.normal_(teacher.tokens.weight)
    objective = Objective({"ce": Term(CrossEntropy(), 0.1), "kd": Term(KD(2.0), 0.9, {"target": None})})
    model = LanguageModelDistiller(teacher, network=student, objective=objective)
    model.make_optimizer = lambda parameters: torch.optim.SGD(parameters, 0.0)
    batches, seen = [batch(1), batch(3)], {}
    # Those of inputs are of the same memory.
    batches[0]["target"] = batches[0]["target"].masked_fill(torch.arange(16) >= 4, -100)

    class Recorder(L.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            seen.update(gradients(module))

    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, accumulate_grad_batches=2, enable_model_summary=False,
        callbacks=[Recorder()], **options,
    )  # fmt: skip
    loader = DataLoader(batches, batch_size=None)
    trainer.fit(model, loader, loader)
    whole = {name: torch.cat([one[name] for one in batches]) for name in batches[0]}
    logits, target = student(whole["inputs"]).flatten(0, 1), whole["target"].flatten()
    hard, soft = CrossEntropy()(logits, target), KD(2.0)(logits, teacher(whole["inputs"]).flatten(0, 1).detach())
    model.zero_grad()
    (0.1 * hard + 0.9 * soft).backward()
    torch.testing.assert_close(seen, gradients(model), rtol=1e-4, atol=1e-6)
    logged = trainer.callback_metrics
    for name, value in {"/ce": hard, "/kd": soft, "": 0.1 * hard + 0.9 * soft}.items():
        torch.testing.assert_close(logged[f"train/loss{name}"], value.detach())


def test_evaluation_gives_logits_and_training_hidden_states():
    model, tokens = LanguageModel(network(), Objective({"ce": CrossEntropy()})), batch()
    assert model(tokens["inputs"]).shape == (3, 16, 12)
    assert model.eval()(tokens["inputs"]).shape == (3, 16, 50)
    torch.testing.assert_close(model(tokens["inputs"]), model.network(tokens["inputs"]))


def test_a_run_logs_loss_speed_and_memory():
    module = LanguageModel(network(), Objective({"ce": CrossEntropy()}))
    logged = {name: float(value) for name, value in fit(module).callback_metrics.items()}
    names = {"train/loss", "train/loss/ce", "train/tokens_per_second", "train/peak_memory", "val/loss", "val/accuracy"}
    assert set(logged) == names
    assert logged["train/loss"] == pytest.approx(logged["train/loss/ce"])
    assert 0 < logged["train/tokens_per_second"] < 1e9
    # A process that has imported torch holds more than 50 MiB.
    assert logged["train/peak_memory"] > 50 * 2**20


def test_accumulated_batches_step_as_one_batch_of_all():
    first = LanguageModel(network(), Objective({"ce": CrossEntropy()}), optimizer=lambda p: torch.optim.SGD(p, 0.1))
    second = copy.deepcopy(first)
    fit(first, steps=2, accumulate_grad_batches=3)
    torch.manual_seed(0)
    text = torch.randint(50, (6 * 4 * 16 + 1,), dtype=torch.uint8)
    dataset, optimizer = TextDataset(text, block_length=16), second.configure_optimizers()
    for rows in (range(0, 12), range(12, 24)):
        optimizer.zero_grad()
        second.training_step(dataset.__getitems__(list(rows)), 0)["loss"].backward()
        optimizer.step()
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=1e-4, atol=1e-6)


def test_a_scheduled_weight_follows_progress():
    objective = Objective({"ce": Term(CrossEntropy(), Linear(0.0, 1.0))})
    module = LanguageModel(network(), objective)
    logged = fit(module).callback_metrics
    # Weights of 0 to 5/6 over 6 steps: their mean is 5/12, of losses that hardly change.
    assert logged["train/loss"] / logged["train/loss/ce"] == pytest.approx(5 / 12, rel=0.05)


class Coupled(torch.nn.Module):
    def forward(self, features, target):
        return features.sum()


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"x": Coupled()}, "term 'x' takes 'features'; a fused head offers 'logits', 'target'"),
        ({"kd": KD()}, "term 'kd' takes 'teacher_logits'"),
        ({"ce": CrossEntropy(reduction="sum")}, "term 'ce' has reduction='sum'; give 'mean'"),
        ({"ce": CrossEntropy([1.0] * 50)}, "term 'ce' has a class_weight"),
        ({"a": CrossEntropy(), "b": CrossEntropy(ignore_index=3)}, r"ignore_index=\[-100, 3\]; give all of them"),
    ],
)
def test_objectives_that_a_head_can_not_serve_are_refused(objective, message):
    with pytest.raises(ValueError, match=message):
        LanguageModel(network(), Objective(objective))


def test_a_missing_teacher_and_an_unknown_implementation_are_named():
    with pytest.raises(ValueError, match="takes 'teacher_logits', but no teacher is set"):
        LanguageModelDistiller(network=network(), objective=Objective({"kl": ForwardKL()})).training_step(batch(), 0)
    with pytest.raises(ValueError, match="impl='chunky'"):
        LanguageModel(network(), Objective({"ce": CrossEntropy()}), impl="chunky")


def test_peak_memory_sees_what_was_freed_again():
    peak = PeakMemory(torch.device("cpu"))
    before = peak.bytes()
    torch.ones(2**26)  # 256 MiB, gone at once
    # Half of it: what the process gave back since may hide the rest.
    assert peak.bytes() - before > 2**27


# ---- packed documents


DOCUMENTS = [
    torch.randint(50, (length,), generator=torch.Generator().manual_seed(length)) for length in (9, 2, 16, 5, 4)
]


def rows_of(packed):
    rows = pack_documents(DOCUMENTS, 16, packed)._asdict()
    return {name: rows[name] for name in ("inputs", "target", "documents")}


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_packing_changes_no_tokens_loss_and_no_gradient(impl):
    """Packed rows, rows of one document each, and documents that come alone, without a mask, are all the same."""
    torch.manual_seed(0)
    student, teacher = network().double(), network(width=20).double()
    objective = Objective({"ce": CrossEntropy(), "kd": KD(temperature=2.0)})
    model = LanguageModelDistiller(teacher, network=student, objective=objective, impl=impl)

    def loss_and_gradients(batch):
        model.zero_grad()
        loss = model.training_step(batch, 0)["loss"]
        loss.backward()
        return loss.detach(), gradients(model)

    packed, alone = loss_and_gradients(rows_of(True)), loss_and_gradients(rows_of(False))
    assert len(rows_of(True)["inputs"]) == 3 < len(rows_of(False)["inputs"]) == 5
    # float64 sums in another order.
    torch.testing.assert_close(packed, alone, rtol=1e-9, atol=1e-12)

    model.zero_grad()
    losses, tokens = [], 0
    for document in DOCUMENTS:
        logits, teacher_logits = (net(document[None, :-1])[0] for net in (student, teacher))
        each = F.cross_entropy(logits, document[1:], reduction="none")
        losses.append(each + KD(temperature=2.0, reduction="none")(logits, teacher_logits))
        tokens += len(each)
    plain = torch.cat(losses).sum() / tokens
    plain.backward()
    torch.testing.assert_close(packed, (plain.detach(), gradients(model)), rtol=1e-9, atol=1e-12)


def test_a_document_sees_no_other():
    net, rows = network().double(), rows_of(True)
    logits = net(rows["inputs"], documents=rows["documents"])
    first = rows["documents"][-1] == 0
    changed = rows["inputs"].clone()
    changed[-1, first] = (changed[-1, first] + 1) % 50
    other = net(changed, documents=rows["documents"])
    assert torch.equal(logits[-1, ~first], other[-1, ~first]) and not first.all()
    assert not torch.isclose(logits[-1, first], other[-1, first]).any(dim=-1).all()
    # Without the documents it would.
    assert not torch.allclose(net(rows["inputs"])[-1, ~first], net(changed)[-1, ~first])


def test_packed_rows_are_evaluated_document_by_document(monkeypatch):
    model = LanguageModel(network(), Objective({"ce": CrossEntropy()}))
    monkeypatch.setattr(model, "log_dict", lambda *_, **__: None)
    rows = rows_of(True)
    model.eval()
    value = model.validation_step(rows, 0)["loss"]
    plain = F.cross_entropy(model(rows["inputs"], rows["documents"]).flatten(0, 1), rows["target"].flatten())
    torch.testing.assert_close(value, plain)


@pytest.mark.parametrize("policy", ["truncate", "map"])
@pytest.mark.parametrize("sizes", [(50, 58), (58, 50)])
def test_other_vocabularies_are_distilled_on_what_they_share(policy, sizes):
    torch.manual_seed(0)
    student, teacher = (
        Transformer(vocabulary_size=size, context_length=16, width=12, depth=1, heads=2, tied=False) for size in sizes
    )
    torch.nn.init.normal_(teacher.get_output_embeddings().weight)
    lists = {} if policy == "truncate" else {"student_classes": range(50), "teacher_classes": [*range(1, 50), 0]}
    loss, tokens = AlignedVocabulary(ForwardKL(), policy, **lists), batch()
    model = LanguageModelDistiller(teacher, network=student, objective=Objective({"kl": loss}))
    found = model.training_step(tokens, 0)["loss"]
    logits, teacher_logits = student(tokens["inputs"]), teacher(tokens["inputs"]).detach()
    torch.testing.assert_close(found, loss(logits, teacher_logits, tokens["target"]))
    found.backward()
    assert student.get_output_embeddings().weight.grad.abs().sum() > 0


def test_a_token_whose_target_is_not_shared_adds_nothing_to_a_mean_over_all():
    torch.manual_seed(0)
    student, teacher = (
        Transformer(vocabulary_size=size, context_length=16, width=12, depth=1, heads=2) for size in (50, 40)
    )
    loss, tokens = AlignedVocabulary(ForwardKL(), "truncate"), batch()
    model = LanguageModelDistiller(teacher, network=student, objective=Objective({"kl": loss}))
    tokens["inputs"] = tokens["inputs"] % 40
    shared = (tokens["target"] < 40).float().mean()
    assert 0 < shared < 1
    wanted = loss(student(tokens["inputs"]), teacher(tokens["inputs"]), tokens["target"]) * shared
    torch.testing.assert_close(model.training_step(tokens, 0)["loss"], wanted)


@pytest.mark.parametrize(
    "loss", [CrossEntropy(None, 0.1), Focal(), KD(temperature=2.0)], ids=lambda loss: loss.identifier()
)
def test_a_softcap_is_applied_to_both_networks(loss):
    torch.manual_seed(0)
    capped, teacher = network(), network(width=20)
    torch.nn.init.normal_(teacher.tokens.weight)
    capped.config, teacher.config = (SimpleNamespace(final_logit_softcapping=softcap) for softcap in (0.3, 2.0))
    model = LanguageModelDistiller(teacher, network=capped, objective=Objective({"loss": loss}))
    tokens = batch()
    found = model.training_step(tokens, 0)["loss"]
    logits, teacher_logits = capped(tokens["inputs"]), teacher(tokens["inputs"]).detach()
    step = {
        "logits": 0.3 * torch.tanh(logits / 0.3),
        "teacher_logits": 2.0 * torch.tanh(teacher_logits / 2.0),
        "target": tokens["target"],
    }
    wanted = Objective({"loss": loss})(**step).total
    torch.testing.assert_close(found, wanted)
    parameters = list(capped.parameters())
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, parameters) for loss in (found, wanted)), rtol=1e-4, atol=1e-6
    )
