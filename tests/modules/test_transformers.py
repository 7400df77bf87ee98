"""Networks of transformers, as they are: the fused loss is the network's own, in value and in gradient."""

import logging

import lightning as L
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from lightning_losses import KD, CrossEntropy, DistillationMixin, Focal, LanguageHeadMixin, Objective, Term
from lightning_losses.data.language_batch import language_batch
from lightning_losses.data.packing import pack_documents
from lightning_losses.modules.language_model import LanguageModel, LanguageModelDistiller
from lightning_losses.teachers import WithoutAdapters

logging.getLogger("transformers").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings(
    "ignore:`lora_bias=True` was passed but the targeted layer",
    "ignore:Model has `tie_word_embeddings=True` and a tied",
)

VOCABULARY, WIDTH = 40, 16
SIZES = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 24}
SIZES |= {"num_hidden_layers": 1, "num_attention_heads": 2}
GROUPED = {**SIZES, "num_key_value_heads": 1}
BART = {"vocab_size": VOCABULARY, "d_model": WIDTH, "max_position_embeddings": 32}
BART |= {f"{part}_{what}": size for part in ("encoder", "decoder") for what, size in
         (("layers", 1), ("attention_heads", 2), ("ffn_dim", 24))}  # fmt: skip
T5 = {"vocab_size": VOCABULARY, "d_model": WIDTH, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}

# Softcaps and scales that change the loss in its first digit.
NETWORKS = {
    "GPT2LMHeadModel": {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 1, "n_head": 2, "n_positions": 32},
    "LlamaForCausalLM": GROUPED,
    "Gemma2ForCausalLM": {**GROUPED, "head_dim": 8, "final_logit_softcapping": 0.3},
    "Gemma3ForCausalLM": {**GROUPED, "head_dim": 8, "final_logit_softcapping": 0.3},
    "GraniteForCausalLM": {**GROUPED, "logits_scaling": 0.25},
    "Qwen2ForCausalLM": GROUPED,
    "Qwen3ForCausalLM": {**GROUPED, "head_dim": 8},
    "MistralForCausalLM": {**GROUPED, "sliding_window": 4},
    "PhiForCausalLM": GROUPED,
    "CohereForCausalLM": {**GROUPED, "logit_scale": 4.0},
    "T5ForConditionalGeneration": T5,
    "BartForConditionalGeneration": BART,
    "BertForMaskedLM": SIZES,
}
if hasattr(transformers, "MiniCPM3ForCausalLM"):
    RANKS = {f"{part}_lora_rank": 8 for part in ("q", "kv")} | {"qk_nope_head_dim": 8, "qk_rope_head_dim": 8}
    NETWORKS["MiniCPM3ForCausalLM"] = {**SIZES, **RANKS, "v_head_dim": 8, "dim_model_base": 64}
CONFIGS = {"Gemma3ForCausalLM": "Gemma3TextConfig", "GPT2LMHeadModel": "GPT2Config"}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 0}
NAMES = sorted(NETWORKS)
CAUSAL = [name for name in NAMES if name.endswith(("CausalLM", "LMHeadModel"))]


def build(name, **changed):
    torch.manual_seed(1)
    config = CONFIGS.get(name) or name.partition("For")[0] + "Config"
    network = getattr(transformers, name)(getattr(transformers, config)(**TOKENS, **{**NETWORKS[name], **changed}))
    with torch.no_grad():
        # As far from uniform as of a trained network; biases begin at 0.
        network.get_output_embeddings().weight.normal_()
        for parameter, value in network.named_parameters():
            if parameter.endswith("bias"):
                value.normal_()
    # Dropout is off, so that two passes are the same; the module that trains it stays in training.
    return network.eval()


def padded():
    """Two rows, of which the second ends early, as transformers' collators make them."""
    ids = torch.randint(3, VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(3))
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def model(network, loss=None, kind=LanguageModel, **options):
    module = kind(network=network, objective=Objective({"loss": loss or CrossEntropy()}), **options)
    module.network.eval()
    module.log_dict = lambda *_, **__: None
    return module


def gradients(loss, network):
    network.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in network.named_parameters() if value.grad is not None}


def assert_same(found, wanted, network):
    # float32 sums in another order.
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients(found, network), gradients(wanted, network), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_loss_gradients_and_logits_are_the_networks_own(name):
    network, batch = build(name), padded()
    module, wanted = model(network), network(**batch)
    assert wanted.loss > 1
    assert_same(module.training_step(batch, 0)["loss"], wanted.loss, network)
    given = language_batch("test", network, batch)
    torch.testing.assert_close(module.eval()(given.inputs, **given.further), network(**batch).logits)


@pytest.mark.parametrize("name", CAUSAL)
def test_packed_documents_are_what_they_are_alone(name):
    """By position ids as transformers packs, and by the rows that `pack_documents` lays."""
    network = build(name)
    generator = torch.Generator().manual_seed(5)
    documents = [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in (5, 3, 4)]
    each = [
        F.cross_entropy(network(document[None]).logits[0, :-1], document[1:], reduction="sum") for document in documents
    ]
    wanted = torch.stack(each).sum() / (4 + 2 + 3)
    labels = [torch.cat([torch.tensor([-100]), document[1:]]) for document in documents]
    by_positions = {
        "input_ids": torch.cat(documents)[None],
        "position_ids": torch.cat([torch.arange(len(document)) for document in documents])[None],
        "labels": torch.cat(labels)[None],
    }
    assert_same(model(network).training_step(by_positions, 0)["loss"], wanted, network)
    by_rows = pack_documents(documents, block_length=12)._asdict()
    torch.testing.assert_close(model(network).training_step(by_rows, 0)["loss"], wanted, rtol=1e-5, atol=1e-6)
    for batch in (by_positions, by_rows):
        torch.testing.assert_close(model(network).eval().validation_step(batch, 0)["loss"], wanted.detach())


def test_documents_that_see_each_other_are_refused():
    class Leaking(transformers.LlamaForCausalLM):
        """Sees position ids as numbers alone, as older versions do."""

        def forward(self, input_ids, position_ids=None, **named):
            mask = torch.ones(len(input_ids), 1, *input_ids.shape[1:], input_ids.shape[1], dtype=torch.bool).tril()
            return super().forward(input_ids, position_ids=position_ids, attention_mask=mask, **named)

    network = Leaking(transformers.LlamaConfig(**TOKENS, **GROUPED)).eval()
    rows = pack_documents([torch.tensor([3, 4, 5]), torch.tensor([6, 7])], block_length=5)._asdict()
    with pytest.raises(ValueError, match=r"Leaking lets documents .* see each other.*packed=False"):
        model(network).training_step(rows, 0)
    alone = pack_documents([torch.tensor([3, 4, 5]), torch.tensor([6, 7])], block_length=5, packed=False)._asdict()
    del alone["documents"]
    assert model(network).training_step(alone, 0)["loss"] > 0


def test_packed_documents_need_positions():
    batch = {name: torch.zeros(1, 4, dtype=torch.long) for name in ("inputs", "target", "documents")}
    with pytest.raises(ValueError, match="T5ForConditionalGeneration takes neither 'documents' nor 'position_ids'"):
        model(build("T5ForConditionalGeneration")).training_step(batch, 0)


def test_targets_that_are_in_place_are_not_shifted_and_labels_are_once():
    network, batch = build("LlamaForCausalLM"), padded()
    wanted = network(**batch).loss
    ids, labels = batch["input_ids"], batch["labels"]
    inputs = {"input_ids": ids[:, :-1], "attention_mask": batch["attention_mask"][:, :-1]}
    for given in ({"inputs": inputs, "target": labels[:, 1:]}, (inputs, labels[:, 1:]), (ids[:, :-1], labels[:, 1:])):
        torch.testing.assert_close(model(network).training_step(given, 0)["loss"], wanted, rtol=1e-5, atol=1e-6)
    ignored = CrossEntropy(ignore_index=-1)
    torch.testing.assert_close(model(network, ignored).training_step(batch, 0)["loss"], wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"LanguageModel: a batch of 'input_ids' came; give a mapping of 'inputs'"):
        model(network).training_step({"input_ids": ids}, 0)


DECODER = {"vocab_size": VOCABULARY, "d_model": WIDTH, "decoder_layers": 1, "decoder_attention_heads": 2}
DECODER |= {"decoder_ffn_dim": 24, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24}
IN_PLACE = {
    "BartForCausalLM": DECODER,
    "PegasusForCausalLM": DECODER,
    "MarianForCausalLM": DECODER,
    "MBartForCausalLM": DECODER,
    "TrOCRForCausalLM": {name: value for name, value in DECODER.items() if not name.startswith("encoder")},
    "XLNetLMHeadModel": {"vocab_size": VOCABULARY, "d_model": WIDTH, "n_layer": 1, "n_head": 2, "d_inner": 24},
    "XLMWithLMHeadModel": {
        "vocab_size": VOCABULARY,
        "emb_dim": WIDTH,
        "n_layers": 1,
        "n_heads": 2,
        "n_words": VOCABULARY,
    },
}
ONE_ON = {
    "BertLMHeadModel": {**SIZES, "is_decoder": True},
    "RobertaForCausalLM": {**SIZES, "is_decoder": True},
    "MixtralForCausalLM": {**GROUPED, "num_local_experts": 2, "output_router_logits": True},
}


APART = "give the batch as 'inputs' and 'target', where target[:, t] is the token that the logits at t predict."


@pytest.mark.parametrize("name", [*IN_PLACE, *ONE_ON])
def test_labels_are_shifted_where_a_networks_own_loss_shifts_them(name):
    """And refused where it compares them in place, once in a training, by one run."""
    kind = getattr(transformers, name)
    network = kind(kind.config_class(**TOKENS, **(IN_PLACE | ONE_ON)[name])).eval()
    if name in ONE_ON:
        batch = language_batch("test", network, padded())
        calls = []
        network.register_forward_pre_hook(lambda *_: calls.append(1))
        torch.testing.assert_close(language_batch("test", network, padded()).target, batch.target)
        assert batch.target[0, :-1].tolist() == padded()["labels"][0, 1:].tolist() and not calls
        return
    with pytest.raises(ValueError) as raised:
        model(network).training_step(padded(), 0)
    assert str(raised.value) == (
        f"LanguageModel: {name} compares its logits with labels in place, while other causal networks use the next "
        f"position's label; {APART}"
    )
    batch = padded()
    target = batch.pop("labels")
    assert model(network).training_step({"inputs": batch, "target": target}, 0)["loss"] > 1


def test_a_network_that_says_nothing_of_its_loss_is_refused_labels():
    class Choosy(transformers.LlamaForCausalLM):
        def forward(self, input_ids, labels=None, **named):
            raise RuntimeError("the pixels are missing")

    with pytest.raises(ValueError) as raised:
        language_batch("test", Choosy(transformers.LlamaConfig(**TOKENS, **GROUPED)), padded())
    assert str(raised.value) == (
        "test: Choosy can't be run on two tokens and their labels, to see which logits it compares with them (the "
        f"pixels are missing); {APART}"
    )


def shifted_logits(network, batch):
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return network(**inputs).logits[:, :-1]


@pytest.mark.parametrize("teacher", ["GPT2LMHeadModel", "Gemma3ForCausalLM", "GraniteForCausalLM"])
@pytest.mark.parametrize("student", ["LlamaForCausalLM", "Gemma2ForCausalLM"])
def test_a_network_teaches_another_with_neither_head_s_logits(student, teacher):
    network, teacher, batch = build(student), build(teacher), padded()
    found = model(network, KD(temperature=2.0), LanguageModelDistiller, teacher=teacher).training_step(batch, 0)["loss"]
    logits, teacher_logits = shifted_logits(network, batch), shifted_logits(teacher, batch).detach()
    assert_same(found, KD(temperature=2.0)(logits, teacher_logits, batch["labels"][:, 1:]), network)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_any_row_wise_loss_is_fused_with_a_softcapped_head():
    network, batch = build("Gemma2ForCausalLM"), padded()
    found = model(network, Focal(gamma=2.0)).training_step(batch, 0)["loss"]
    assert_same(found, Focal(gamma=2.0)(shifted_logits(network, batch), batch["labels"][:, 1:]), network)


def test_teacher_and_student_of_logits_go_without_adapters():
    class Student(DistillationMixin, L.LightningModule):
        def __init__(self):
            super().__init__()
            self.network, self.teacher = build("Qwen2ForCausalLM"), build("MistralForCausalLM")
            self.objective = Objective({"ce": CrossEntropy(), "kd": Term(KD(), 0.5)})

        def training_step(self, batch, batch_idx):
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            return self.apply_objective(inputs=inputs, logits=self.network(**inputs).logits, target=batch["labels"])

    module, batch = Student(), padded()
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits, teacher_logits = module.network(**inputs).logits, module.teacher(**inputs).logits
    wanted = CrossEntropy()(logits, batch["labels"]) + 0.5 * KD()(logits, teacher_logits, batch["labels"])
    torch.testing.assert_close(module.training_step(batch, 0)["loss"], wanted)


class Mixed(LanguageHeadMixin, L.LightningModule):
    def __init__(self, network):
        super().__init__()
        self.network = network


@pytest.mark.parametrize("name", NAMES)
def test_the_mixin_asks_a_network_for_what_its_head_is_fed(name):
    network, batch = build(name), padded()
    wanted = network(**batch).loss
    labels = batch.pop("labels")
    if name.endswith("ConditionalGeneration"):
        batch["decoder_input_ids"] = network.prepare_decoder_input_ids_from_labels(labels)
    module = Mixed(network)
    found = module.language_loss(module.hidden_states(batch), labels, shift=name in CAUSAL)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


class Changed(transformers.LlamaForCausalLM):
    """Does to its logits what its configuration doesn't tell."""

    def forward(self, *arguments, **named):
        output = super().forward(*arguments, **named)
        output.logits = self.change(output.logits)
        return output


def learned(network):
    network.scale = nn.Parameter(torch.ones(()))
    return lambda logits: logits * network.scale


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda network: lambda logits: 2.0 * logits,
            "changes its head's logits in a way that its configuration",
        ),
        (lambda network: lambda logits: 20.0 * torch.tanh(logits / 20.0), "changes its head's logits in a way that"),
        (lambda network: lambda logits: logits + torch.eye(VOCABULARY)[3], "changes its head's logits in a way that"),
        (learned, "has parameters behind its head"),
    ],
    ids=["scale", "softcap", "bias", "learned scale"],
)
def test_what_a_configuration_does_not_tell_is_refused(change, said):
    network = Changed(transformers.LlamaConfig(**TOKENS, **GROUPED)).eval()
    network.change = change(network)
    with pytest.raises(ValueError, match=rf"^LanguageModel: Changed {said}.*give the objective its logits"):
        model(network).training_step(padded(), 0)
    with pytest.raises(ValueError, match=rf"^Mixed: Changed {said}"):
        Mixed(network).language_loss(torch.zeros(2, 8, WIDTH), padded()["input_ids"])
    # Its forward is its own again.
    assert network(**padded()).logits.shape == (2, 8, VOCABULARY) and "forward" not in vars(network.lm_head)


def test_a_head_that_is_not_called_is_refused():
    module = model(build("LlamaForCausalLM"))
    module.language_head = nn.Linear(WIDTH, VOCABULARY)
    with pytest.raises(ValueError, match="made its logits without calling its head, a Linear; set self.language_head"):
        module.training_step(padded(), 0)


# ---- adapters

ADAPTERS = {
    "attention": {"target_modules": ["q_proj", "v_proj"]},
    "head too": {"target_modules": ["q_proj", "lm_head"]},
    "everything": {"target_modules": "all-linear"},
    "head saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "bias of LoRA": {"target_modules": ["lm_head"], "lora_bias": True},
}


def adapted(options, name="LlamaForCausalLM", **changed):
    peft = pytest.importorskip("peft")
    network = peft.get_peft_model(build(name, **changed), peft.LoraConfig(r=2, **options))
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                # Adapters begin at no change.
                parameter.normal_(std=0.2)
    return network.eval()


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Gemma2ForCausalLM"])
@pytest.mark.parametrize("adapters", ADAPTERS)
def test_adapters_count_and_learn(adapters, name):
    network, batch = adapted(ADAPTERS[adapters], name, tie_word_embeddings=False), padded()
    assert_same(model(network).training_step(batch, 0)["loss"], network(**batch).loss, network)


@pytest.mark.parametrize("adapters", ADAPTERS)
def test_a_network_learns_from_itself_without_its_adapters(adapters):
    network, batch = adapted(ADAPTERS[adapters]), padded()
    asked = {name: value.requires_grad for name, value in network.named_parameters()}
    module = model(network, KD(), LanguageModelDistiller, teacher=WithoutAdapters(network))
    found = module.training_step(batch, 0)["loss"]
    with network.disable_adapter():
        teacher_logits = shifted_logits(network, batch).detach()
    for name, value in network.named_parameters():
        value.requires_grad_(asked[name])
    wanted = KD()(shifted_logits(network, batch), teacher_logits, batch["labels"][:, 1:])
    assert wanted > 0.01
    assert_same(found, wanted, network)
    assert asked == {name: value.requires_grad for name, value in network.named_parameters()}
    assert not any("teacher" in name for name in module.state_dict())


def test_frozen_adapters_stay_frozen_beside_such_a_teacher():
    network = adapted(ADAPTERS["everything"])
    network.requires_grad_(False)
    logits = WithoutAdapters(network)(**padded()).logits
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not torch.allclose(logits, network(**padded()).logits)


@pytest.mark.parametrize("options", [{"lora_dropout": 0.5}, {"use_dora": True}], ids=str)
def test_adapters_that_are_no_sum_with_the_head_are_refused(options):
    network = adapted({"target_modules": ["lm_head"], **options})
    with pytest.raises(ValueError, match="LanguageModel: the head's LoRA 'default' has .* leave the head out of"):
        module = model(network)
        network.train()
        module.training_step(padded(), 0)
