"""Terms that take more than logits and target, in a language model's step: the plain losses, exact over steps."""

import copy
import functools

import lightning as L
import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from lightning_losses.losses import EMO, KD, AttentionEntropyRegularizer, CrossEntropy, NoiseFiT
from lightning_losses.modules.language_model import LanguageModel, LanguageModelDistiller
from lightning_losses.networks.attention_calls import attention_maps
from lightning_losses.networks.multi_token import multi_token_transformer
from lightning_losses.networks.noise_injection import NoiseInjection
from lightning_losses.networks.transformer import Transformer
from lightning_losses.objective import Objective, Term
from tests.each import each

TOKENS = torch.randint(11, (4, 3, 9), generator=torch.Generator().manual_seed(1))


def batch(number=0, ignored=()):
    target = TOKENS[number, :, 1:].clone()
    for place in ignored:
        target.view(-1)[place] = -100
    return {"inputs": TOKENS[number, :, :-1], "target": target}


def network(**options):
    torch.manual_seed(0)
    return Transformer(11, context_length=8, width=12, depth=2, heads=2, **options)


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@each("mode", ["emo1", "emo2"])
@each("tied", [True, False])
def test_emo_takes_the_head_s_weight(mode, tied):
    given = batch(ignored=(0, 5))
    model = LanguageModel(network(tied=tied), Objective({"emo": EMO(mode)}), impl="chunked")
    loss = model.training_step(given, 0)["loss"]
    loss.backward()
    plain = network(tied=tied)
    weight = plain.get_output_embeddings().weight
    want = EMO(mode)(plain(given["inputs"]), given["target"], weight)
    want.backward()
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(gradients(model.network), gradients(plain), rtol=1e-4, atol=1e-6)


def test_attention_is_recorded_and_thresholds_train():
    given, term = batch(ignored=range(8, 14)), AttentionEntropyRegularizer(2, 2, tolerance=0.0)
    model = LanguageModel(network(), Objective({"ce": CrossEntropy(), "a": Term(term, 0.5)}))
    loss = model.training_step(given, 0)["loss"]
    loss.backward()
    plain, own = network(), copy.deepcopy(term)
    own.zero_grad()
    with attention_maps(plain) as maps:
        logits = plain(given["inputs"])
    kept = given["target"] != -100
    own.reduction = "none"
    rows = own(torch.stack(list(maps.values()), dim=1), kept)
    # Every token that counts weighs the same, whatever their number in its row.
    regularizer = (rows * kept.sum(dim=1)).sum() / kept.sum()
    want = CrossEntropy()(logits, given["target"]) + 0.5 * regularizer
    want.backward()
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(gradients(model.network), gradients(plain), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(term.thresholds.grad, own.thresholds.grad)
    assert any(parameter is term.thresholds for parameter in model.parameters())


def test_noisy_passes_are_those_of_the_plain_loss():
    given, objective = batch(ignored=(3,)), Objective({"ce": Term(CrossEntropy(), 0.5), "n": NoiseFiT()})
    model = LanguageModel(network(), objective)
    model.noise_injection = NoiseInjection({"0": model.network.blocks[0]}, noise_std=2.0)
    torch.manual_seed(5)
    loss = model.training_step(given, 0)["loss"]
    loss.backward()
    plain = network()
    injection = NoiseInjection({"0": plain.blocks[0]}, noise_std=2.0)
    clean, noisy = plain(given["inputs"]), []
    torch.manual_seed(5)
    for _ in range(2):
        with injection.injecting():
            noisy.append(plain(given["inputs"]))
    want = 0.5 * CrossEntropy()(clean, given["target"]) + NoiseFiT()(clean, *noisy, given["target"])
    want.backward()
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(gradients(model.network), gradients(plain), rtol=1e-4, atol=1e-6)


def objectives():
    return {
        "emo": Objective({"emo": EMO("emo2")}),
        "attention": Objective({"a": AttentionEntropyRegularizer(2, 2, tolerance=0.0)}),
        "noisefit": Objective({"n": NoiseFiT()}),
        "several": Objective({"ce": CrossEntropy()}),
    }


@pytest.mark.parametrize("name", list(objectives()))
def test_accumulated_batches_of_unequal_size_are_one_batch(name):
    found = []
    parts = [batch(0, ignored=range(18)), batch(1)]
    whole = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    for data in (parts, [whole]):
        torch.manual_seed(0)
        sizes = {"vocabulary_size": 11, "context_length": 8, "width": 12, "depth": 2, "heads": 2}
        model = LanguageModel(
            multi_token_transformer(3, **sizes) if name == "several" else network(),
            objectives()[name],
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        )
        # Without noise the passes are the same in both.
        model.noise_injection = NoiseInjection({"0": model.network.blocks[0]}, noise_std=0.0)
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = L.Trainer(
            accelerator="cpu", max_steps=1, accumulate_grad_batches=len(data), enable_model_summary=False, **options
        )
        loader = DataLoader(data, batch_size=None)
        trainer.fit(model, loader, loader)
        found.append({key: value.detach().clone() for key, value in model.named_parameters()})
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_a_teacher_s_term_sees_the_next_token_alone():
    torch.manual_seed(0)
    sizes = {"vocabulary_size": 11, "context_length": 8, "depth": 2, "heads": 2}
    student, teacher = multi_token_transformer(2, width=12, **sizes), Transformer(width=8, **sizes)
    model = LanguageModelDistiller(teacher, network=student, objective=Objective({"kd": KD()}))
    given = batch()
    want = KD()(student(given["inputs"]), teacher(given["inputs"]).detach(), given["target"])
    torch.testing.assert_close(model.training_step(given, 0)["loss"], want)


def test_a_term_of_attention_sees_the_next_token_alone():
    torch.manual_seed(0)
    student = multi_token_transformer(3, vocabulary_size=11, context_length=8, width=12, depth=2, heads=2)
    term, given = AttentionEntropyRegularizer(2, 2, tolerance=0.0), batch()
    loss = LanguageModel(student, Objective({"a": term})).training_step(given, 0)["loss"]
    with attention_maps(student) as maps:
        student(given["inputs"])
    torch.testing.assert_close(loss, term(torch.stack(list(maps.values()), dim=1)))


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Objective({"a": AttentionEntropyRegularizer(2, 2, reduction="sum")}), "term 'a' has reduction='sum'"),
        (Objective({"emo": EMO(reduction="none")}), "term 'emo' has reduction='none'"),
    ],
)
def test_other_reductions_are_refused(objective, message):
    with pytest.raises(ValueError, match=message):
        LanguageModel(network(), objective)


def test_attention_without_a_gradient_is_refused():
    student = network()
    for block in student.blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=True)
    model = LanguageModel(student, Objective({"a": AttentionEntropyRegularizer(2, 2)}))
    with pytest.raises(ValueError, match="attention weights of Transformer have no gradient, as where layers are fro"):
        model.training_step(batch(), 0)


def test_attention_that_can_not_be_recorded_is_refused():
    model = LanguageModel(network(attention="lssa"), Objective({"a": AttentionEntropyRegularizer(2, 2)}))
    with pytest.raises(ValueError, match="calls no scaled_dot_product_attention; use a network that does"):
        model.training_step(batch(), 0)
