import pytest
import torch

from lightning_losses.decoding.generate import generate
from lightning_losses.networks.hugging_face_causal import hugging_face_causal

transformers = pytest.importorskip("transformers")
SIZES = {"vocabulary_size": 11, "context_length": 8, "width": 8, "depth": 1}


def test_a_folder_gives_the_network_that_it_holds(tmp_path):
    network = hugging_face_causal("llama", **SIZES)
    network.save_pretrained(tmp_path)
    read = hugging_face_causal(folder=tmp_path, vocabulary_size=9)
    assert read.training
    tokens = torch.arange(6).reshape(2, 3)
    torch.testing.assert_close(read(tokens).logits, network(tokens).logits)
    with pytest.raises(ValueError, match=r"context_length=9 came, and the model in .* has 8; give data of no more"):
        hugging_face_causal(folder=tmp_path, context_length=9)


def test_a_folder_without_weights_that_are_safe_to_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no config\.json; give the folder"):
        hugging_face_causal(folder=tmp_path)
    network = hugging_face_causal("gpt2", **SIZES)
    network.config.save_pretrained(tmp_path)
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        hugging_face_causal(folder=tmp_path)


@pytest.mark.parametrize("model_type", ["bert2", "vit"])
def test_what_is_no_causal_language_model_is_refused(model_type):
    with pytest.raises(ValueError, match=f"model_type='{model_type}' came; give the name of a causal language model"):
        hugging_face_causal(model_type, **SIZES)


@pytest.mark.parametrize(("model_type", "kept"), [("gemma3", "vocab_size=11 came"), ("bart", "num_hidden_layers=1 ")])
def test_sizes_that_a_configuration_does_not_take_are_refused(model_type, kept):
    with pytest.raises(ValueError, match=f"{kept}.* and the configuration of '{model_type}' keeps .*; set it by the"):
        hugging_face_causal(model_type, **SIZES)


def test_an_architecture_that_refuses_its_sizes_is_told_in_a_sentence():
    with pytest.raises(ValueError, match=r"the configuration of 'xlnet' does not take these sizes \(.*\); set what it"):
        hugging_face_causal("xlnet", **SIZES)


def test_a_folder_of_a_model_of_images_too_is_asked_for_its_text(tmp_path):
    text = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    images = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = transformers.Gemma3Config(text_config=text | heads, vision_config=images)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"vocabulary_size=12 came, and the model in .* has 11; give data of no more"):
        hugging_face_causal(folder=tmp_path, vocabulary_size=12)


def test_more_tokens_than_its_positions_are_refused():
    with pytest.raises(ValueError, match="give at most 9 tokens together, the most that the network reads is 8"):
        generate(hugging_face_causal("gpt2", **SIZES), torch.tensor([[1, 2]]), 8)
