"""A small causal transformer for language models."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lightning_losses.networks.softplus_attention import softplus_attention
from lightning_losses.numerics.checks import check_choice, check_count, check_number

Attention = Literal["softmax", "lssa", "lssar"]


class Transformer(nn.Module):
    """A decoder-only transformer with pre-normalisation and learned positions.

    Weights are initialised as in GPT-2: normal with standard deviation 0.02, and 0.02 / sqrt(2 depth) for the last
    layer of a residual branch. `lightning_losses.mixins.LanguageHeadMixin` finds its head automatically.

    Args:
        vocabulary_size: V.
        context_length: the largest number of tokens in a sequence.
        width: D, the width of the hidden states.
        depth: the number of blocks.
        heads: number of attention heads, which divide the width.
        tied: True computes logits with the token embedding's weight; False with a separate layer without bias.
        qk_norm: whether queries and keys are normalised per head, with a gain, before their product; this bounds the
            attention logits.
        attention: "softmax", or "lssa" and "lssar", which are `softplus_attention` without and with its re-weighting;
            those normalise queries and keys themselves.
        attention_power: the power of "lssar", at least 1.

    Shapes:
        tokens: [B, T] int64; documents (optional): [B, T], the number of each token's document, if several are packed
        in a row: tokens see only their own document, whose positions begin at 0; cache and places (optional): what
        `empty_cache` gives, and [B, T], the position of each token of its row, written into the cache and seen by the
        calls that follow. logits: [B, T, V]; hidden states: [B, T, D].

    Raises:
        ValueError: a size that is no whole number of at least 1; a width that the heads don't divide; an unknown
            `attention`, or one that normalises together with `qk_norm`; when called, a sequence longer than the
            context, or a cache without places or with documents.

    Source:
        Radford et al., 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2). Unlike GPT-2, only
        normalisations have biases, and there is no dropout. `qk_norm`: Dehghani et al., 2023, "Scaling Vision
        Transformers to 22 Billion Parameters", arXiv:2302.05442. `attention`: Gao, Spratling, 2025, arXiv:2501.13428.

    Example:
        >>> network = Transformer(vocabulary_size=9, context_length=8, width=16, depth=2, heads=2)
        >>> tokens = torch.zeros(2, 5, dtype=torch.long)
        >>> network(tokens).shape, network(tokens, return_hidden=True).shape
        (torch.Size([2, 5, 9]), torch.Size([2, 5, 16]))
    """

    def __init__(
        self,
        vocabulary_size: int,
        context_length: int,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        tied: bool = True,
        qk_norm: bool = False,
        attention: Attention = "softmax",
        attention_power: float = 3.0,
    ) -> None:
        super().__init__()
        check_choice("transformer", "attention", attention, Attention)
        check_number("transformer", "attention_power", attention_power, least=1)
        if qk_norm and attention != "softmax":
            raise ValueError(
                f"transformer: qk_norm came with attention={attention!r}, which normalises queries and keys itself; "
                "leave qk_norm out."
            )
        sizes = {"vocabulary_size": vocabulary_size, "context_length": context_length, "width": width, "depth": depth}
        for name, size in {**sizes, "heads": heads}.items():
            check_count("transformer", name, size)
        if width % heads:
            raise ValueError(f"transformer: heads={heads} came with width={width}; give a divisor of the width.")
        self.context_length = context_length
        self.tokens = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Embedding(context_length, width)
        self.blocks = nn.ModuleList(Block(width, heads, qk_norm, attention, attention_power) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = None if tied else nn.Linear(width, vocabulary_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if name.endswith("out.weight") else 0.02)

    def forward(
        self,
        tokens: Int[Tensor, "batch time"],
        return_hidden: bool = False,
        documents: Int[Tensor, "batch time"] | None = None,
        cache: Float[Tensor, "depth 2 batch heads length _"] | None = None,
        places: Int[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch time _"]:
        """The logits of each next token, or the hidden states before the head."""
        if tokens.shape[-1] > self.context_length:
            raise ValueError(
                f"transformer: {tokens.shape[-1]} tokens came; give at most {self.context_length}, the context_length."
            )
        positions, mask = torch.arange(tokens.shape[-1], device=tokens.device), None
        if documents is not None:
            earlier = positions.unsqueeze(-1) >= positions
            mask = (earlier & (documents.unsqueeze(-1) == documents.unsqueeze(-2))).unsqueeze(-3)
            positions = positions_within(documents)
        if cache is not None:
            if places is None or documents is not None:
                raise ValueError("transformer: a cache came; give the tokens' places beside it, and no documents.")
            positions = places
            mask = (torch.arange(cache.shape[-2], device=tokens.device) <= places.unsqueeze(-1)).unsqueeze(-3)
        hidden = self.tokens(tokens) + self.positions(positions)
        for depth, block in enumerate(self.blocks):
            hidden = block(hidden, mask) if cache is None else block(hidden, mask, cache[depth], places)
        hidden = self.norm(hidden)
        if return_hidden:
            return hidden
        return F.linear(hidden, self.tokens.weight) if self.head is None else self.head(hidden)

    def empty_cache(self, batch: int, length: int) -> Float[Tensor, "depth 2 batch heads length _"]:
        """Room for the keys and values of sequences of at most `length` tokens; they get no gradient there.

        Example:
            >>> network = Transformer(9, context_length=8, width=8, depth=1, heads=2).eval()
            >>> tokens, cache = torch.arange(6).reshape(2, 3), network.empty_cache(batch=2, length=4)
            >>> first = network(tokens[:, :2], cache=cache, places=torch.tensor([[0, 1], [0, 1]]))
            >>> last = network(tokens[:, 2:], cache=cache, places=torch.tensor([[2], [2]]))
            >>> torch.allclose(last[:, 0], network(tokens)[:, -1], atol=1e-6)
            True
        """
        first: Any = self.blocks[0]
        heads, weight = int(first.heads), self.tokens.weight
        size = (len(self.blocks), 2, batch, heads, length, weight.shape[1] // heads)
        # A plain tensor, where the weight's own methods would make a sharded one.
        return torch.zeros(size, dtype=weight.dtype, device=weight.device)

    def get_output_embeddings(self) -> nn.Embedding | nn.Linear:
        """The layer whose weight computes the logits."""
        return self.tokens if self.head is None else self.head


def positions_within(documents: Int[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
    """Each token's position in its document, from 0, for rows with contiguous documents.

    Example:
        >>> positions_within(torch.tensor([[0, 0, 0, 1, 1, -1]]))
        tensor([[0, 1, 2, 0, 1, 0]])
    """
    place = torch.arange(documents.shape[-1], device=documents.device).expand_as(documents)
    first = torch.ones_like(documents, dtype=torch.bool)
    first[..., 1:] = documents[..., 1:] != documents[..., :-1]
    return place - torch.where(first, place, 0).cummax(dim=-1).values


class Block(nn.Module):
    """Causal self-attention, then an MLP of four times the width, each with a residual connection.

    Args:
        width: D.
        heads: number of attention heads.
        qk_norm: whether queries and keys are normalised.
        attention: as `Transformer`'s.
        attention_power: as `Transformer`'s.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        qk_norm: bool = False,
        attention: Attention = "softmax",
        attention_power: float = 3.0,
    ) -> None:
        super().__init__()
        self.heads, self.attention = heads, attention
        self.attention_power = attention_power if attention == "lssar" else None
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width, bias=False)
        self.query_norm = nn.LayerNorm(width // heads, bias=False) if qk_norm else None
        self.key_norm = nn.LayerNorm(width // heads, bias=False) if qk_norm else None
        self.attention_out = nn.Linear(width, width, bias=False)
        self.perceptron_norm = nn.LayerNorm(width)
        self.perceptron_in = nn.Linear(width, 4 * width, bias=False)
        self.perceptron_out = nn.Linear(4 * width, width, bias=False)

    def forward(
        self,
        hidden: Float[Tensor, "batch time width"],
        mask: Bool[Tensor, "batch 1 time length"] | None = None,
        cache: Float[Tensor, "2 batch heads length _"] | None = None,
        places: Int[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch time width"]:
        """The next block's input; tokens attend where the mask is True, by default to themselves and all before.

        With a cache, keys and values are written there at the tokens' places, and tokens attend to all that it holds.
        """
        joint = self.attention_in(self.attention_norm(hidden)).unflatten(-1, (3, self.heads, -1))
        query, key, value = joint.permute(2, 0, 3, 1, 4).unbind()
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if cache is not None:
            rows = torch.arange(len(hidden), device=hidden.device).unsqueeze(-1)
            cache[0][rows, :, places] = key.detach().transpose(1, 2).to(cache.dtype)
            cache[1][rows, :, places] = value.detach().transpose(1, 2).to(cache.dtype)
            key, value = cache.to(query.dtype).unbind()
        if self.attention == "softmax":
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        else:
            mixed = softplus_attention(query, key, value, mask, power=self.attention_power)
        hidden = hidden + self.attention_out(mixed.transpose(1, 2).flatten(2))
        return hidden + self.perceptron_out(F.gelu(self.perceptron_in(self.perceptron_norm(hidden))))
