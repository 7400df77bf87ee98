"""A datastore of hidden states and the tokens that followed them, with exact search."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

from lightning_losses.environment.atomic_files import replacing
from lightning_losses.networks.weights import read_weights
from lightning_losses.numerics.checks import check_count, check_embeddings, check_temperature
from lightning_losses.numerics.products import product, spans

# Distances that are held at once: queries times keys.
_QUERIES, _KEYS = 512, 8192


class Neighbours(NamedTuple):
    """The nearest keys of each query, the nearest first.

    Attributes:
        distances: [Q, k] squared Euclidean distances.
        values: [Q, k] the tokens that followed.
    """

    distances: Float[Tensor, "queries k"]
    values: Int[Tensor, "queries k"]


class Datastore:
    """Hidden states with the token that followed each, and their nearest neighbours by exact search.

    Args:
        keys: [N, D] floating-point, N of at least 1; half precision halves the memory.
        values: [N] int64 tokens.

    Raises:
        ValueError: keys that are no vectors, or not finite; another number of values; values that are no int64, or
            below 0.

    Example:
        >>> datastore = Datastore(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([7, 8, 9]))
        >>> datastore.search(torch.tensor([[4.0]]), k=2)
        Neighbours(distances=tensor([[1., 9.]]), values=tensor([[9, 8]]))
    """

    def __init__(self, keys: Float[Tensor, "keys width"], values: Int[Tensor, " keys"]) -> None:
        check_embeddings("datastore", "keys", keys)
        if len(keys) == 0 or not keys.isfinite().all():
            raise ValueError(f"datastore: keys of shape {list(keys.shape)} came; give at least one, all finite.")
        if not isinstance(values, Tensor) or values.dtype != torch.int64 or values.shape != keys.shape[:1]:
            came = f"{values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"datastore: {len(keys)} keys came with values {came}; give an int64 token for each.")
        least, most = (int(end) for end in values.aminmax())
        if least < 0:
            raise ValueError(f"datastore: values with {least} came; give tokens, from 0 on, without those to ignore.")
        self.keys, self.values = keys.detach(), values
        # Read once, not at each search.
        self._largest = most

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str) -> "Datastore":
        """The datastore on a device, where its queries are."""
        return Datastore(self.keys.to(device), self.values.to(device))

    @torch.no_grad()
    def search(self, queries: Float[Tensor, "queries width"], k: int, *, ignore_top: bool = False) -> Neighbours:
        """The k nearest keys of each query, or all if there are fewer.

        They are chosen by products in the queries' precision (float32 at least), tile by tile; the distances of those
        chosen are computed anew from differences.

        Args:
            queries: [Q, D].
            k: at least 1.
            ignore_top: leave out the nearest, the query itself where the queries are the keys; k others remain.

        Raises:
            ValueError: queries of another width; a k below 1; ``ignore_top`` with one key.
        """
        check_embeddings("datastore", "queries", queries)
        check_count("datastore", "k", k)
        if queries.shape[1] != self.keys.shape[1]:
            raise ValueError(
                f"datastore: queries of width {queries.shape[1]} came to keys of width {self.keys.shape[1]}; give the "
                "hidden states of the same layer."
            )
        if ignore_top and len(self) == 1:
            raise ValueError("datastore: ignore_top came for a datastore of one key; give it more keys.")
        rows = queries.to(torch.promote_types(queries.dtype, torch.float32))
        if len(rows) == 0:
            shape = (0, min(k, len(self) - ignore_top))
            return Neighbours(rows.new_zeros(shape), self.values.new_zeros(shape))
        with torch.autocast(rows.device.type, enabled=False):
            parts = [self._nearest(rows[i], k + ignore_top) for i in spans(len(rows), _QUERIES)]
        distances, values = (torch.cat(part)[:, int(ignore_top) :] for part in zip(*parts, strict=True))
        return Neighbours(distances, values)

    @torch.no_grad()
    def log_probabilities(
        self,
        queries: Float[Tensor, "queries width"],
        vocabulary_size: int,
        *,
        k: int = 1024,
        temperature: float = 1.0,
        ignore_top: bool = False,
    ) -> Float[Tensor, "queries vocabulary"]:
        """``log Σ softmax(-d / temperature)`` over the k nearest keys with a token as value; -inf for others.

        Args:
            queries: [Q, D].
            vocabulary_size: V.
            k: the number of neighbours.
            temperature: of the squared distances d, above 0.
            ignore_top: see `search`.

        Raises:
            ValueError: as `search`; a temperature of 0 or less; a vocabulary without one of the values.

        Example:
            >>> datastore = Datastore(torch.tensor([[0.0], [0.0], [5.0]]), torch.tensor([1, 0, 0]))
            >>> datastore.log_probabilities(torch.tensor([[0.0]]), vocabulary_size=3, k=2).exp()
            tensor([[0.5000, 0.5000, 0.0000]])
        """
        if vocabulary_size <= self._largest:
            raise ValueError(
                f"datastore: vocabulary_size={vocabulary_size} came, and a value is {self._largest}; give the "
                "vocabulary of the network that made the datastore."
            )
        return votes(self.search(queries, k, ignore_top=ignore_top), vocabulary_size, temperature)

    def save(self, path: str | Path) -> None:
        """Write it into a safetensors file, whole or not at all."""
        with replacing(Path(path)) as partial:
            save_file({"keys": self.keys.cpu().contiguous(), "values": self.values.cpu().contiguous()}, str(partial))

    @classmethod
    def load(cls, path: str | Path) -> "Datastore":
        """Read what `save` wrote; no code from the file is run.

        Raises:
            ValueError: no such file, or one without keys and values.
        """
        tensors = read_weights(Path(path))
        if set(tensors) != {"keys", "values"}:
            raise ValueError(f"datastore: {path} holds {sorted(tensors)}; give a file that Datastore.save wrote.")
        return cls(tensors["keys"], tensors["values"])

    def _nearest(self, rows: Float[Tensor, "rows width"], k: int) -> tuple[Tensor, Tensor]:
        """Distances and values of a tile's rows."""
        best, places = rows.new_empty(len(rows), 0), self.values.new_empty(len(rows), 0)
        for j in spans(len(self), _KEYS):
            keys = self.keys[j].to(rows.dtype)
            # The queries' own lengths change no order.
            scores = product(rows, keys).mul_(-2).add_(keys.square().sum(dim=1))
            near = scores.topk(min(k, len(keys)), dim=1, largest=False, sorted=False)
            best = torch.cat([best, near.values], dim=1)
            places = torch.cat([places, near.indices + j.start], dim=1)
            if best.shape[1] > k:
                best, chosen = best.topk(k, dim=1, largest=False, sorted=False)
                places = places.gather(1, chosen)
        distances = torch.stack(
            [
                (self.keys[place].to(rows.dtype) - row).square().sum(dim=1)
                for place, row in zip(places, rows, strict=True)
            ]
        )
        distances, order = distances.sort(dim=1)
        return distances, self.values[places.gather(1, order)]


@torch.no_grad()
def votes(
    neighbours: Neighbours, vocabulary_size: int, temperature: float = 1.0
) -> Float[Tensor, "queries vocabulary"]:
    """``log Σ softmax(-d / temperature)`` over the neighbours with a token as value; -inf for others.

    Args:
        neighbours: of each query, as `Datastore.search` finds them.
        vocabulary_size: V.
        temperature: above 0.

    Raises:
        ValueError: a temperature of 0 or less.

    Example:
        >>> votes(Neighbours(torch.tensor([[1.0, 1.0]]), torch.tensor([[0, 2]])), vocabulary_size=3).exp()
        tensor([[0.5000, 0.0000, 0.5000]])
    """
    check_temperature("datastore", temperature)
    shares = (-neighbours.distances / temperature).softmax(dim=1)
    return shares.new_zeros(len(shares), vocabulary_size).scatter_add(1, neighbours.values, shares).log()


def mix_with_neighbours(
    log_p: Float[Tensor, "*rows vocabulary"], log_p_neighbours: Float[Tensor, "*rows vocabulary"], weight: float
) -> Float[Tensor, "*rows vocabulary"]:
    """``log(weight p_neighbours + (1 - weight) p)``, in log space.

    Args:
        log_p: [..., V] log-probabilities of the network.
        log_p_neighbours: [..., V] those of the neighbours' values; -inf where there are none.
        weight: λ, in [0, 1].

    Example:
        >>> mix_with_neighbours(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.0, 1.0]).log(), weight=0.5).exp()
        tensor([0.2500, 0.7500])
    """
    own, neighbours = (math.log(share) if share > 0 else -math.inf for share in (1 - weight, weight))
    return torch.logaddexp(log_p_neighbours + neighbours, log_p + own)
