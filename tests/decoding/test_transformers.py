"""The processors work in transformers' generate."""

import subprocess
import sys

import pytest
import torch

from lightning_losses.decoding import KNNLM, USCD, Datastore, EntropyAdaptiveDecoding, Mirostat, MirostatV2, generate

transformers = pytest.importorskip("transformers")
V = 13


@pytest.fixture
def network():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=V, n_positions=32, n_embd=12, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=None
    )
    network = transformers.GPT2LMHeadModel(config).eval()
    for parameter in network.parameters():
        parameter.data.mul_(5.0 if parameter.ndim > 1 else 1.0)
    return network


PROCESSORS = {
    "mirostat": lambda network: Mirostat(target_surprise=1.5),
    "mirostat_v2": lambda network: MirostatV2(target_surprise=1.5),
    "entropy_adaptive_decoding": lambda network: EntropyAdaptiveDecoding(
        torch.nn.Embedding.from_pretrained(torch.randn(V, V) * 3), threshold=2.0, window=2, least_tokens=2
    ),
    "uscd": lambda network: USCD(network, torch.tensor([[3]]), prompt_length=4, threshold=0.2),
    "knn_lm": lambda network: KNNLM(network, Datastore(torch.randn(50, 12), torch.randint(V, (50,))), neighbours=5),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_greedy_generation_is_that_of_ours(network, name):
    torch.manual_seed(1)
    processor, prompts = PROCESSORS[name](network), torch.randint(V, (3, 4))
    ours = generate(network, prompts, 12, temperature=0, processors=[processor])
    theirs = network.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=12,
        do_sample=False,
        logits_processor=transformers.LogitsProcessorList([processor]),
        pad_token_id=0,
    )
    assert theirs.tolist() == ours.tokens.tolist()


@pytest.mark.parametrize("name", PROCESSORS)
def test_sampling_runs(network, name):
    torch.manual_seed(1)
    processor, prompts = PROCESSORS[name](network), torch.randint(V, (3, 4))
    plain = {"attention_mask": torch.ones_like(prompts), "max_new_tokens": 20, "do_sample": True, "pad_token_id": 0}
    drawn = network.generate(prompts, logits_processor=[processor], top_k=0, **plain)
    assert drawn.shape == (3, 24)


def test_nothing_of_transformers_is_imported():
    code = "import sys, lightning_losses.decoding; print('transformers' in sys.modules, 'lightning' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
