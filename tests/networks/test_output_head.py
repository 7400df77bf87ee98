import lightning
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from lightning_losses import LanguageHeadMixin, linear_cross_entropy
from lightning_losses.networks.output_head import head_matrix

VOCABULARY, WIDTH = 99, 16
SIZES = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 32}
SIZES |= {"num_hidden_layers": 1, "num_attention_heads": 2}
KEYS = {"num_key_value_heads": 1}


class Model(LanguageHeadMixin, lightning.LightningModule):
    def __init__(self, network):
        super().__init__()
        self.network = network


def tokens():
    return torch.randint(VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(3))


NETWORKS = {
    # Capped at a tenth of what the logits reach.
    "softcap": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, **KEYS, head_dim=8, final_logit_softcapping=0.01)),
    "divided": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, **KEYS, logits_scaling=0.125)),
    "multiplied": lambda: CohereForCausalLM(CohereConfig(**SIZES, **KEYS, logit_scale=8.0, pad_token_id=0)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_a_configuration_does_to_logits_is_done(name):
    torch.manual_seed(0)
    network, ids = NETWORKS[name]().train(), tokens()
    wanted = network(input_ids=ids, labels=ids)
    hidden = network.base_model(input_ids=ids).last_hidden_state
    model = Model(network)
    torch.testing.assert_close(model.language_loss(hidden, ids, shift=1), wanted.loss, rtol=1e-5, atol=1e-6)
    plain = linear_cross_entropy(hidden, network.lm_head.weight, ids, shift=1)
    assert abs(plain - wanted.loss) > 1e-3
    torch.testing.assert_close(model.eval().head_output(hidden), wanted.logits, rtol=1e-5, atol=1e-6)


def test_a_tied_head_of_t5_divides_by_the_root_of_the_width():
    torch.manual_seed(0)
    network = T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
    ).eval()
    found = network(input_ids=tokens(), labels=tokens(), output_hidden_states=True)
    hidden = found.decoder_hidden_states[-1]
    torch.testing.assert_close(Model(network).language_loss(hidden, tokens()), found.loss, rtol=1e-5, atol=1e-6)


def test_a_head_behind_a_transform_is_refused_until_it_is_given():
    torch.manual_seed(0)
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    network, ids = BertForMaskedLM(BertConfig(**SIZES, **quiet)), tokens()
    model, hidden = Model(network), network.base_model(input_ids=ids).last_hidden_state
    with pytest.raises(ValueError, match=r"cls.predictions.transform beside its head.*setting self.language_head"):
        model.language_loss(hidden, ids)
    model.language_head = network.get_output_embeddings()
    found = model.language_loss(network.cls.predictions.transform(hidden), ids)
    torch.testing.assert_close(found, network(input_ids=ids, labels=ids).loss, rtol=1e-5, atol=1e-6)


class LowRank(nn.Module):
    """As PEFT's LoRA stands in a network, with its forward."""

    def __init__(self, base, dropout=0.0, variant=False, bias=False):
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base.out_features, bias=bias)})
        self.lora_dropout = nn.ModuleDict({"default": nn.Dropout(dropout) if dropout else nn.Identity()})
        self.scaling, self.active_adapters = {"default": 0.5}, ["default", "of_another_layer"]
        self.lora_variant = {"default": object()} if variant else {}
        self.disable_adapters = self.merged = False

    def get_delta_weight(self, name):
        return self.lora_B[name].weight @ self.lora_A[name].weight * self.scaling[name]

    def forward(self, hidden):
        if self.disable_adapters:
            return self.base_layer(hidden)
        low = self.lora_A["default"](self.lora_dropout["default"](hidden))
        return self.base_layer(hidden) + self.lora_B["default"](low) * self.scaling["default"]


class Saved(nn.Module):
    """As PEFT wraps `modules_to_save`."""

    def __init__(self, original, saved):
        super().__init__()
        self.original_module, self.modules_to_save = original, nn.ModuleDict({"default": saved})
        self.active_adapter, self.disable_adapters = "default", False

    def forward(self, hidden):
        return (self.original_module if self.disable_adapters else self.modules_to_save["default"])(hidden)


HEADS = {
    "lora": lambda: LowRank(nn.Linear(WIDTH, VOCABULARY)),
    "lora with a bias": lambda: LowRank(nn.Linear(WIDTH, VOCABULARY, bias=False), bias=True),
    "modules_to_save": lambda: Saved(nn.Linear(WIDTH, VOCABULARY), nn.Linear(WIDTH, VOCABULARY)),
}


@pytest.mark.parametrize("off", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_adapters_of_a_head_count_and_learn(name, off):
    torch.manual_seed(0)
    model = Model(None)
    model.lm_head = head = HEADS[name]()
    head.disable_adapters = off
    hidden, ids = torch.randn(2, 8, WIDTH, requires_grad=True), tokens()
    parameters = [hidden, *(parameter for parameter in head.parameters() if parameter.requires_grad)]
    found, wanted = (
        model.language_loss(hidden, ids),
        nn.functional.cross_entropy(head(hidden).flatten(0, 1), ids.flatten()),
    )
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.eval().head_output(hidden), head(hidden))


@pytest.mark.parametrize(("options", "said"), [({"dropout": 0.1}, "lora_dropout"), ({"variant": True}, "DoRA")])
def test_an_adapter_that_is_no_sum_is_refused(options, said):
    with pytest.raises(ValueError, match=f"'default' has {said}.*target_modules"):
        head_matrix("model", LowRank(nn.Linear(2, 3), **options))


def test_dropout_of_an_adapter_is_off_in_evaluation():
    head = LowRank(nn.Linear(2, 3), dropout=0.1).eval()
    weight, _ = head_matrix("model", head)
    torch.testing.assert_close(weight, head.base_layer.weight + head.get_delta_weight("default"))
