"""Splits a batch of this library, or of transformers' collators, into a language network's inputs and targets."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lightning_losses.data.loading import unknown_batch
from lightning_losses.networks.calls import names, unwrapped
from lightning_losses.networks.own_loss import check_compares_one_on
from lightning_losses.networks.transformer import positions_within


class LanguageBatch(NamedTuple):
    """A batch for one network.

    Attributes:
        inputs: tokens, or a mapping of tokens and further arguments by name.
        further: further keyword arguments.
        target: [B, T] the target at each position of the logits; the ignored index if there is none.
    """

    inputs: Any
    further: dict[str, Any]
    target: Int[Tensor, "batch time"]


def language_batch(who: str, network: nn.Module, batch: Any, ignore_index: int = -100) -> LanguageBatch:
    """Split a batch into the inputs and the target of a network.

    Args:
        who: the name in errors.
        network: the network.
        batch: `inputs`, `target` and, of packed rows, `documents`, which a network without such an argument gets as
            ``position_ids``; or a tuple of the first two; or the output of a collator of transformers: `labels`, -100
            where ignored, and everything else under the network's argument names. Then the target of a causal network
            is the next position's label, while an encoder-decoder or a masked language model has its labels in place.
        ignore_index: the ignored target.

    Raises:
        ValueError: a batch of another form; packed rows for a network that can't keep documents separate; labels for a
            causal network whose own loss compares them in place.

    Example:
        >>> batch = {"input_ids": torch.tensor([[4, 5, 6]]), "labels": torch.tensor([[4, 5, 6]])}
        >>> language_batch("example", nn.Identity(), batch).target.tolist()
        [[5, 6, -100]]
    """
    if isinstance(batch, tuple | list) and len(batch) == 2:
        batch = {"inputs": batch[0], "target": batch[1]}
    if isinstance(batch, Mapping) and "labels" in batch and "target" not in batch:
        return _of_labels(who, network, batch, ignore_index)
    if not isinstance(batch, Mapping) or not {"inputs", "target"} <= set(batch):
        raise unknown_batch(who, batch)
    inputs, documents = batch["inputs"], batch.get("documents")
    if documents is None:
        return LanguageBatch(inputs, {}, batch["target"])
    if names(network, "documents"):
        return LanguageBatch(inputs, {"documents": documents}, batch["target"])
    if not names(network, "position_ids"):
        raise ValueError(
            f"{who}: packed rows came, but {type(unwrapped(network)).__name__} takes neither 'documents' nor "
            "'position_ids', and can't keep documents apart; give each a row of its own (packed=False)."
        )
    return LanguageBatch(inputs, {"position_ids": positions_within(documents)}, batch["target"])


def further_targets(
    target: Int[Tensor, "batch time"],
    predicted: int,
    ignore_index: int = -100,
    documents: Int[Tensor, "batch time"] | None = None,
) -> Int[Tensor, "predicted batch time"]:
    """The targets of the next token, the one after it, ... at each position, from those of the next token.

    Args:
        target: [B, T] of the next token.
        predicted: n, how many.
        ignore_index: the ignored target, which stands where a row, or its document, has no such token.
        documents: [B, T] the number of each token's document, for packed rows.

    Example:
        >>> further_targets(torch.tensor([[5, 6, -100, 8]]), 2, documents=torch.tensor([[0, 0, 0, 1]])).tolist()
        [[[5, 6, -100, 8]], [[6, -100, -100, -100]]]
    """
    later = [target]
    for step in range(1, predicted):
        moved = torch.full_like(target, ignore_index)
        if step < target.shape[-1]:
            moved[..., :-step] = target[..., step:]
            if documents is not None:
                apart = documents[..., step:] != documents[..., :-step]
                moved[..., :-step].masked_fill_(apart, ignore_index)
        later.append(moved)
    return torch.stack(later)


def document_numbers(batch: Any, given: LanguageBatch) -> Int[Tensor, "batch time"] | None:
    """The number of each token's document, from the batch's `documents` or the positions of its tokens; None if alone.

    Example:
        >>> positions = torch.tensor([[0, 1, 0, 1]])
        >>> document_numbers({}, LanguageBatch({"position_ids": positions}, {}, positions))
        tensor([[1, 1, 2, 2]])
    """
    if isinstance(batch, Mapping) and batch.get("documents") is not None:
        documents: Tensor = batch["documents"]
        return documents
    inputs = given.inputs if isinstance(given.inputs, Mapping) else {}
    positions = given.further.get("position_ids", inputs.get("position_ids"))
    return None if positions is None else (positions == 0).cumsum(dim=-1)


def _of_labels(who: str, network: Any, batch: Mapping[str, Any], ignore_index: int) -> LanguageBatch:
    labels = batch["labels"]
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    begin = getattr(network, "prepare_decoder_input_ids_from_labels", None)
    if begin is not None and not {"decoder_input_ids", "decoder_inputs_embeds"} & set(inputs):
        inputs["decoder_input_ids"] = begin(labels)
    in_place = begin is not None or getattr(network, "loss_type", None) == "ForMaskedLM"
    if not in_place:
        check_compares_one_on(who, network)
    target = labels if in_place else _next(labels)
    return LanguageBatch(inputs, {}, target.masked_fill(target == -100, ignore_index))


def _next(labels: Int[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
    """The next position's label; the last position has none."""
    return torch.cat([labels[..., 1:], torch.full_like(labels[..., :1], -100)], dim=-1)
