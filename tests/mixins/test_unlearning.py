import copy
import functools

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from lightning_losses.losses import IDK, NPO, ForwardKL, GradientAscent, RetainNLL, SimNPO, UnDIAL
from lightning_losses.modules.unlearner import Unlearner
from lightning_losses.networks.transformer import Transformer
from lightning_losses.objective import Objective, Term
from lightning_losses.teachers import CachedLogits, WithoutAdapters
from tests.distributed.processes import one_step

VOCABULARY = 11
DISTILLED = {"logits": "retain_logits", "teacher_logits": "ref_retain_logits", "target": "retain_target"}
LOWERED = {"logits": "forget_logits", "teacher_logits": "ref_forget_logits", "target": "forget_target"}
OBJECTIVES = {
    "grad_diff": lambda: {"ascent": GradientAscent(), "retain": Term(RetainNLL(), 0.5)},
    "npo": lambda: {"npo": NPO(beta=0.1), "retain": RetainNLL()},
    "simnpo": lambda: {"simnpo": SimNPO()},
    "undial": lambda: {"undial": Term(UnDIAL(), inputs=LOWERED), "kl": Term(ForwardKL(), inputs=DISTILLED)},
}
each_objective = pytest.mark.parametrize("name", OBJECTIVES)


def network(seed=0):
    torch.manual_seed(seed)
    return Transformer(VOCABULARY, context_length=12, width=8, depth=1, heads=2).double()


def text(rows, width, seed, ignored=0.4):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (rows, width + 1), generator=generator)
    target = tokens[:, 1:].masked_fill(torch.rand(rows, width, generator=generator) < ignored, -100)
    return {"inputs": tokens[:, :-1], "target": target}


def batch(rows=slice(None)):
    whole = {"forget": text(6, 7, 1), "retain": text(6, 9, 2)}
    # One text has nothing to forget, one process hardly anything.
    whole["forget"]["target"][0] = -100
    whole["forget"]["target"][4, 1:] = -100
    return {part: {name: value[rows] for name, value in given.items()} for part, given in whole.items()}


def model(name, reference=True):
    return Unlearner(
        network(),
        Objective(OBJECTIVES[name]()),
        network(5) if reference else None,
        optimizer=functools.partial(torch.optim.SGD, lr=0.1),
        impl="chunked",
    )


def logps(net, given):
    scores = net(given["inputs"]).log_softmax(-1)
    kept = given["target"] != -100
    return (
        scores.gather(-1, given["target"].clamp(min=0).unsqueeze(-1)).squeeze(-1).masked_fill(~kept, 0.0),
        kept,
        scores,
    )


@each_objective
def test_the_step_is_the_formula_on_whole_logits(name):
    module, given = model(name), batch()
    loss = module.training_step(given, 0)["loss"]
    own, kept, scores = logps(module.network, given["forget"])
    ref, _, _ = logps(module.teacher, given["forget"])
    retained, retain_kept, retain_scores = logps(module.network, given["retain"])
    nll = -retained.sum() / retain_kept.sum()
    if name == "grad_diff":
        expected = own.sum() / kept.sum() + 0.5 * nll
    elif name == "npo":
        expected = -20 * F.logsigmoid(-0.1 * (own - ref).sum(1))[kept.any(1)].mean() + nll
    elif name == "simnpo":
        mean = own.sum(1) / kept.sum(1)
        expected = -2 / 4.5 * F.logsigmoid(-4.5 * mean)[kept.any(1)].mean()
    else:
        lowered = module.teacher(given["forget"]["inputs"])
        lowered = lowered - 10 * F.one_hot(given["forget"]["target"].clamp(min=0), VOCABULARY)
        expected = -(lowered.softmax(-1) * scores).sum(-1)[kept].mean()
        ref_retain = logps(module.teacher, given["retain"])[2]
        expected = expected + (ref_retain.exp() * (ref_retain - retain_scores)).sum(-1)[retain_kept].mean()
    torch.testing.assert_close(loss, expected.to(loss), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(loss, list(module.network.parameters()), retain_graph=True),
        torch.autograd.grad(expected, list(module.network.parameters())),
        rtol=1e-4,
        atol=1e-6,
    )


def stepped(name, parts, accumulate):
    """The weights after one optimizer step over these parts of the batch."""
    module = model(name)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=1, accumulate_grad_batches=accumulate, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    loader = DataLoader([batch(rows) for rows in parts], batch_size=None)
    trainer.fit(module, loader, loader)
    return dict(module.network.state_dict()), trainer.callback_metrics


@each_objective
def test_accumulated_batches_are_one_batch(name):
    whole, logged = stepped(name, [slice(None)], 1)
    parted, also_logged = stepped(name, [slice(0, 1), slice(1, 4), slice(4, 6)], 3)
    torch.testing.assert_close(parted, whole, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(dict(also_logged), dict(logged), rtol=1e-5, atol=1e-6)


@pytest.mark.distributed
@each_objective
def test_two_processes_are_one(name, tmp_path):
    alone, together = (
        one_step(functools.partial(model, name), [[batch(rows)] for rows in shares], tmp_path)
        for shares in ([slice(0, 6)], [slice(0, 4), slice(4, 6)])
    )
    torch.testing.assert_close(together["gradients"], alone["gradients"], rtol=1e-4, atol=1e-6)


def test_only_what_is_taken_runs():
    module = model("simnpo", reference=False)
    assert module.teacher is None
    calls = []
    module.network.register_forward_hook(lambda *_: calls.append(1))
    module.training_step(batch(), 0)
    assert len(calls) == 1


def test_the_reference_is_a_frozen_copy_of_what_came():
    module = model("npo", reference=False)
    begun = copy.deepcopy(module.teacher.state_dict())
    loss = module.training_step(batch(), 0)["loss"]
    loss.backward()
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(module.teacher.state_dict(), begun)
    assert all(parameter.grad is None for parameter in module.teacher.parameters())
    assert not any("teacher" in name for name in module.state_dict())


def test_refusals_are_taken_for_idk():
    module = Unlearner(network(), Objective({"idk": IDK()}), network(5))
    given = {**batch(), "refusal": text(6, 3, 3)}
    step = module.training_step(given, 0)
    parts, networks = ("refusal", "forget"), (module.network, module.teacher)
    values = [logps(net, given[part])[0] for part in parts for net in networks]
    masks = [given[part]["target"] != -100 for part in parts]
    torch.testing.assert_close(step["loss"].double(), IDK()(*values, *masks), rtol=1e-5, atol=1e-6)


def test_a_batch_may_bring_the_references_values():
    module, given = model("npo", reference=False), batch()
    reference = logps(network(5), given["forget"])[0]
    module.teacher = None
    brought = module.training_step({**given, "ref_forget_logps": reference}, 0)["loss"]
    torch.testing.assert_close(brought, model("npo").training_step(given, 0)["loss"])


def test_a_cache_may_hold_the_references_values():
    module, given = model("npo", reference=False), batch()
    module.teacher = CachedLogits(logps(network(5), given["forget"])[0].float())
    cached = module.training_step({**given, "index": torch.arange(6)}, 0)["loss"]
    # The cache holds float32.
    torch.testing.assert_close(cached, model("npo").training_step(given, 0)["loss"], rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="a cached reference needs 'index' in the batch"):
        module.training_step(given, 0)


def test_with_adapters_the_reference_is_the_network_without_them():
    peft = pytest.importorskip("peft")
    options = peft.LoraConfig(r=2, target_modules=["attention_in"], init_lora_weights=False)
    adapted = peft.get_peft_model(network(), options)
    module, given = Unlearner(adapted, Objective({"npo": NPO(beta=0.1)})), batch()
    assert isinstance(module.teacher, WithoutAdapters)
    loss = module.training_step(given, 0)["loss"]
    (own, kept, _), (reference, _, _) = (logps(net, given["forget"]) for net in (adapted, network()))
    torch.testing.assert_close(loss.double(), NPO(beta=0.1)(own, reference, kept), rtol=1e-5, atol=1e-6)
    loss.backward()
    assert {name.split(".")[-3] for name, p in module.named_parameters() if p.grad is not None} == {"lora_A", "lora_B"}


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("npo", {"retain": 1}, r"Unlearner: \['retain'\] came as a batch; give a mapping of 'forget'"),
        ("npo", {"forget": text(1, 3, 0)}, r"the objective takes 'retain_logps', .* but the batch holds \['forget'\]"),
    ],
)
def test_a_batch_of_another_form_is_refused(name, given, words):
    with pytest.raises(ValueError, match=words):
        model(name).training_step(given, 0)


def test_a_missing_reference_is_named():
    module = model("undial")
    module.teacher = None
    with pytest.raises(ValueError, match="takes a reference's logits, but none is set"):
        module.training_step(batch(), 0)
    with pytest.raises(ValueError, match="from_teacher=True came without a teacher"):
        Unlearner(network(), Objective(OBJECTIVES["npo"]()), from_teacher=True)


def test_log_probabilities_of_logits_keep_their_precision():
    own = model("undial")
    offered, wanted = own.unlearning_tensors(batch())["forget_logps"], logps(own.network, batch()["forget"])[0]
    torch.testing.assert_close(offered, wanted, rtol=1e-14, atol=0)
