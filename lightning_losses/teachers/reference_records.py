"""What a reference says of the tokens of a text: now, or once, kept in files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_losses.data.language_batch import LanguageBatch, language_batch
from lightning_losses.environment.source_digest import source_digest
from lightning_losses.kernels.token_record import TokenRecord, token_record
from lightning_losses.networks.head_input import head_input
from lightning_losses.networks.output_head import HEAD_NAMES, head_matrix, logit_scale, logit_softcap, offered_heads
from lightning_losses.teachers.cache_teacher import cache_teacher


class Wanted(NamedTuple):
    """What a record is asked for beside log-probabilities; see `token_record`."""

    entropies: bool = False
    log_collisions: bool = False
    variances: bool = False
    ranks: bool = False


LOGPS_ALONE = Wanted()


def network_record(
    owner: str,
    network: nn.Module,
    given: LanguageBatch,
    wanted: Wanted = LOGPS_ALONE,
    **options: Any,
) -> TokenRecord:
    """The record of a batch under any network that offers its head.

    Args:
        owner: the name in errors.
        network: as `head_input` takes it.
        given: the batch.
        wanted: what is needed beside log-probabilities.
        **options: those of `token_record`.

    Raises:
        ValueError: a network without a head.

    Example:
        >>> from lightning_losses.networks.transformer import Transformer
        >>> network, tokens = Transformer(9, context_length=8, width=8, depth=1, heads=2), torch.arange(9).reshape(1, 9)
        >>> network_record("example", network, LanguageBatch(tokens[:, :8], {}, tokens[:, 1:])).logps.shape
        torch.Size([1, 8])
    """
    if not (heads := offered_heads(network)):
        raise ValueError(
            f"{owner}: the network, a {type(network).__name__}, offers no head; give it one as "
            f"get_output_embeddings() or under {', '.join(HEAD_NAMES)}."
        )
    hidden = head_input(owner, network, heads[0], given.inputs, **given.further)
    weight, bias = head_matrix(owner, heads[0], logit_scale(network))
    bias = None if bias is None else bias.to(hidden.dtype)
    return token_record(
        hidden,
        weight.to(hidden.dtype),
        given.target,
        bias,
        softcap=logit_softcap(network),
        **options,
        **wanted._asdict(),
    )


def joined(batches: Sequence[LanguageBatch], ignore_index: int = -100) -> LanguageBatch:
    """Several batches as the rows of one, the narrower ones padded at their end.

    Args:
        batches: of the same form.
        ignore_index: the target of padding.

    Example:
        >>> short, long = (LanguageBatch(torch.ones(1, t).long(), {}, torch.ones(1, t).long()) for t in (2, 3))
        >>> joined([short, long]).target.tolist()
        [[1, 1, -100], [1, 1, 1]]
    """
    first = batches[0]
    inputs: Any
    if isinstance(first.inputs, Mapping):
        inputs = {name: _rows(name, [batch.inputs[name] for batch in batches]) for name in first.inputs}
    else:
        inputs = _rows("inputs", [batch.inputs for batch in batches])
    further = {name: _rows(name, [batch.further[name] for batch in batches]) for name in first.further}
    return LanguageBatch(inputs, further, _rows("target", [batch.target for batch in batches], ignore_index))


def widen(tensor: Tensor, width: int, value: float) -> Tensor:
    """A [B, T] tensor with columns of one value added, up to a width."""
    return tensor if tensor.shape[1] >= width else F.pad(tensor, (0, width - tensor.shape[1]), value=value)


def _rows(name: str, tensors: Sequence[Tensor], value: int | None = None) -> Tensor:
    # Padding is a document of its own; -1 is that of the rest of a packed row.
    filler = (-1 if name == "documents" else 0) if value is None else value
    if tensors[0].ndim == 2:
        width = max(tensor.shape[1] for tensor in tensors)
        tensors = [widen(tensor, width, filler) for tensor in tensors]
    return torch.cat(list(tensors))


def cache_reference(
    reference: nn.Module,
    dataset: Dataset[Any],
    folder: str | Path,
    *,
    texts: Sequence[str] = ("chosen", "rejected"),
    ignore_index: int = -100,
    temperature: float = 1.0,
    **options: Any,
) -> Path:
    """Evaluate a reference once on every text of a data set, and keep its tokens' log-probabilities in files.

    `load_cached_teacher` reads them; as `self.teacher` it takes the place of the reference, and the batch has the
    samples' `index`. Everything else is as `cache_teacher` says.

    Args:
        reference: a network that offers its head, as `network_record` takes it.
        dataset: gives mappings of texts, one per sample, each as `language_batch` takes a row of it; all samples padded
            to one width.
        folder: the folder of all caches.
        texts: the names of a sample's texts, in the order in which they are kept.
        ignore_index: tokens with this target do not count.
        temperature: the divisor of the scores.
        **options: `batch_size`, `device` and `identity` of `cache_teacher`.

    Returns:
        The cache's folder, for `load_cached_teacher`.

    Raises:
        ValueError: as `cache_teacher`; a sample without one of the texts.

    Example:
        >>> import tempfile
        >>> from lightning_losses.networks.transformer import Transformer
        >>> from lightning_losses.teachers import load_cached_teacher
        >>> text = {"inputs": torch.arange(4), "target": torch.tensor([-100, 2, 3, 4])}
        >>> network, data = Transformer(9, context_length=8, width=8, depth=1, heads=2), [{"chosen": text}]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cached = load_cached_teacher(cache_reference(network, data, folder, texts=["chosen"]))
        ...     cached(torch.tensor([0])).shape
        torch.Size([1, 4])
    """
    network = _Logps(reference, tuple(texts), ignore_index, temperature)
    return cache_teacher(network, _Texts(dataset, tuple(texts)), folder, **options)


class _Logps(nn.Module):
    """The log-probabilities of a sample's texts under a network, one after the other."""

    def __init__(self, network: nn.Module, texts: tuple[str, ...], ignore_index: int, temperature: float) -> None:
        super().__init__()
        self.network, self.texts = network, texts
        self.ignore_index, self.temperature = ignore_index, temperature

    def cache_identity(self) -> list[Any]:
        """What decides the log-probabilities: the network, what is asked, and this library's code."""
        return [self.network, self.texts, self.ignore_index, self.temperature, source_digest([__name__])]

    def forward(self, given: Mapping[str, Tensor]) -> Float[Tensor, "batch tokens"]:
        """Log-probabilities from tensors by "text/name"."""
        records = []
        for text in self.texts:
            own = {name.partition("/")[2]: tensor for name, tensor in given.items() if name.startswith(f"{text}/")}
            split = language_batch("cache_reference", self.network, own, self.ignore_index)
            options: dict[str, Any] = {"ignore_index": self.ignore_index, "temperature": self.temperature}
            records.append(network_record("cache_reference", self.network, split, **options).logps)
        return torch.cat(records, dim=1)


class _Texts(Dataset[Any]):
    """A data set's texts as flat inputs of one network."""

    def __init__(self, dataset: Dataset[Any], texts: tuple[str, ...]) -> None:
        self.dataset, self.texts = dataset, texts

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self._flat(self.dataset[position])

    def _flat(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        if missing := [text for text in self.texts if not isinstance(sample.get(text), Mapping)]:
            raise ValueError(
                f"cache_reference: a sample holds {sorted(sample)}; give each of {', '.join(map(repr, missing))} as a "
                "mapping of tensors, or name other texts."
            )
        return {"inputs": {f"{text}/{name}": value for text in self.texts for name, value in sample[text].items()}}
