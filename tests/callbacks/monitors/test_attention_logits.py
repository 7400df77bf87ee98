"""Attention logits: the closed form, masks, layers by name, and the norm that bounds them."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from lightning_losses.callbacks.monitors.attention_logits import AttentionLogits, largest_attention_logit
from tests.callbacks.training import PerProcess, Tiny, batches, trainer


def tensors(heads=2, key_heads=2):
    return torch.randn(3, heads, 5, 4), torch.randn(3, key_heads, 5, 4)


def test_masks_hide_logits():
    query, key = tensors()
    logits = query @ key.transpose(-2, -1) / 2
    assert largest_attention_logit(query, key) == pytest.approx(logits.max().item())
    seen = torch.ones(5, 5, dtype=torch.bool).tril()
    want = logits[..., seen].max().item()
    assert largest_attention_logit(query, key, is_causal=True).item() == pytest.approx(want)
    assert largest_attention_logit(query, key, seen).item() == pytest.approx(want)
    added = torch.zeros(5, 5).masked_fill(~seen, -math.inf)
    assert largest_attention_logit(query, key, added).item() == pytest.approx(want)
    assert largest_attention_logit(query, key, scale=1.0).item() == pytest.approx(2 * logits.max().item())


def test_keys_serve_several_heads():
    query, key = tensors(heads=4, key_heads=2)
    whole = key.repeat_interleave(2, dim=1)
    assert largest_attention_logit(query, key) == largest_attention_logit(query, whole)


class Attending(Tiny):
    """Two encoder layers over the features as tokens."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        layers = [nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True) for _ in range(2)]
        self.network = nn.Sequential(nn.Linear(1, 4), *layers, nn.Flatten(), nn.Linear(20, 3))

    def forward(self, inputs):
        return self.network(inputs.unsqueeze(-1))

    def training_step(self, batch, batch_idx):
        logits, target = self(batch[0]), batch[1]
        return {"loss": F.cross_entropy(logits, target), "logits": logits, "target": target}


def test_every_layer_is_measured_and_nothing_disturbed(tmp_path):
    monitor, module = AttentionLogits(samples=8, every_n_steps=3, folder=tmp_path), Attending()
    with torch.no_grad():
        tokens = module.network[0](batches()[0][0].unsqueeze(-1))
        attention = module.network[1].self_attn
        query, key, _ = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
        heads = [tensor.reshape(8, 5, 2, 2).transpose(1, 2) for tensor in (query, key)]
        want = (heads[0] @ heads[1].transpose(-2, -1) / math.sqrt(2)).max().item()
    trainer(tmp_path, [monitor]).fit(module, PerProcess(batches()))
    names = ["network.1.self_attn", "network.2.self_attn"]
    assert list(monitor.values) == ["all", *names] and monitor.steps == [0, 3]
    assert monitor.values[names[0]][0] == pytest.approx(want, rel=1e-5)
    assert monitor.values["all"] == [max(pair) for pair in zip(*(monitor.values[name] for name in names), strict=True)]
    alone = Attending()
    trainer(tmp_path, []).fit(alone, PerProcess(batches()))
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), alone.parameters(), strict=True))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert (tmp_path / "attention_logits.png").stat().st_size > 10_000


class Vision(Tiny):
    def __init__(self, qk_norm):
        super().__init__()
        torch.manual_seed(5)
        self.network = timm.create_model(
            "vit_tiny_patch16_224", img_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=3,
            qk_norm=qk_norm,
        )  # fmt: skip
        with torch.no_grad():
            for block in self.network.blocks:
                block.attn.qkv.weight.mul_(100)

    def forward(self, inputs):
        return self.network(inputs)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_normalised_queries_and_keys_are_bounded(tmp_path):
    images = [(torch.randn(4, 3, 8, 8), torch.randint(3, (4,)))]
    largest = {}
    for qk_norm in (False, True):
        monitor = AttentionLogits(every_n_steps=1)
        trainer(tmp_path, [monitor]).fit(Vision(qk_norm), PerProcess(images))
        assert list(monitor.values) == ["all", "network.blocks.0.attn", "network.blocks.1.attn"]
        largest[qk_norm] = monitor.values["all"][0]
    # LayerNorm at its first gain of 1 gives vectors of length √d, whose product over √d is at most √d = 2.
    assert largest[True] <= 2 * (1 + 1e-5) < largest[False]


def test_a_network_without_attention_is_refused(tmp_path):
    class Called(Tiny):
        def forward(self, inputs):
            return self.network(inputs)

    with pytest.raises(ValueError, match="calls no scaled_dot_product_attention"):
        trainer(tmp_path, [AttentionLogits()]).fit(Called(), PerProcess(batches()))
