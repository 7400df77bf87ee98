"""kNN-LM: a language model mixed with what followed its nearest hidden states in a datastore."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.decoding.base import without_left_padding
from lightning_losses.decoding.datastore import Datastore, mix_with_neighbours
from lightning_losses.decoding.layer_input import layer_input
from lightning_losses.networks.calls import call, in_evaluation, logits_of
from lightning_losses.numerics.settings import Count, Declared, Share, Temperature


class KNNLM(Declared):
    """kNN-LM: the network's next-token distribution, mixed with that of its nearest neighbours in a datastore.

    ``p = λ p_neighbours + (1 - λ) p_network`` with ``p_neighbours(w) = Σ softmax(-d / T)`` over the k nearest keys
    that w followed; d are squared Euclidean distances between inputs of the last feed-forward layer. It is combined by
    log-sum-exp.

    `log_probabilities` is for texts. As a logits processor, for `lightning_losses.decoding.generate` and transformers'
    generate, it reads the whole sequence again at each token, for the hidden state of its last.

    Args:
        network: the causal network that made the datastore: logits [B, T, V] of tokens [B, T].
        datastore: keys and values, such as `lightning_losses.callbacks.records.datastore_record` makes.
        weight: λ, in [0, 1].
        neighbours: k; all keys if there are fewer.
        temperature: T of the squared distances, above 0; a large one counts all k alike.
        layer: the name of the layer whose input is the key; None: the last feed-forward layer.
        ignore_top: leave out the nearest key, for texts that made the datastore.
        pad_token: the token that fills shorter rows at their left, if there are such rows.

    Shapes:
        input_ids: [B, T]; scores: [B, V]; returned: [B, V] log-probabilities.

    Raises:
        ValueError: a setting outside its range; hidden states of another width than the keys; a layer that the network
            lacks.

    Source:
        Khandelwal, Levy, Jurafsky, Zettlemoyer, Lewis, 2020, "Generalization through Memorization: Nearest Neighbor
        Language Models", arXiv:1911.00172; Xu, Alon, Neubig, 2023, "Why do Nearest Neighbor Language Models Work?",
        arXiv:2301.02828, and frankxu2004/knnlm-why. Search is exact, by torch, without faiss.

    Example:
        >>> from lightning_losses.networks.transformer import Transformer
        >>> network = Transformer(vocabulary_size=9, context_length=8, width=8, depth=1, heads=2)
        >>> knn = KNNLM(network, Datastore(torch.zeros(1, 8), torch.tensor([3])), weight=0.5)
        >>> knn.log_probabilities(torch.tensor([[1, 2]]))[..., 3].exp() > 0.5
        tensor([[True, True]])
    """

    name = "knn_lm"

    network: nn.Module
    datastore: Datastore
    weight: Share = 0.25
    neighbours: Count = 1024
    temperature: Temperature = 1.0
    layer: str | None = None
    ignore_top: bool = False
    pad_token: int | None = None

    def __call__(
        self, input_ids: Int[Tensor, "batch time"], scores: Float[Tensor, "batch vocabulary"]
    ) -> Float[Tensor, "batch vocabulary"]:
        """The scores' log-probabilities, mixed with the neighbours'."""
        tokens, last = without_left_padding(input_ids, self.pad_token)
        _, states = self._read(tokens)
        states = states[torch.arange(len(states), device=states.device), last.to(states.device)]
        return self._mixed(scores.float().log_softmax(dim=-1), states).to(scores.dtype)

    def log_probabilities(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocabulary"]:
        """What is said of each next token of texts, in evaluation mode and without gradient."""
        logits, states = self._read(tokens)
        return self._mixed(logits.float().log_softmax(dim=-1), states)

    def _mixed(self, log_p: Tensor, states: Tensor) -> Tensor:
        found = self.datastore.log_probabilities(
            states.flatten(0, -2).to(self.datastore.keys.device),
            log_p.shape[-1],
            k=self.neighbours,
            temperature=self.temperature,
            ignore_top=self.ignore_top,
        )
        return mix_with_neighbours(log_p, found.to(log_p).view_as(log_p), self.weight)

    def _read(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return logits_and_keys(self.name, self.network, tokens, self.layer)


def record_datastore(
    network: nn.Module,
    batches: Iterable[tuple[Int[Tensor, "batch time"], Int[Tensor, "batch time"]]],
    layer: str | None = None,
    ignore_index: int = -100,
) -> Datastore:
    """The datastore of texts: of each token, what a layer was fed, and the token that followed.

    `lightning_losses.callbacks.records.datastore_record` makes it in a trainer's evaluation, on several processes.

    Args:
        network: a causal network that gives logits [B, T, V] of tokens [B, T].
        batches: tokens [B, T] and the token after each, [B, T].
        layer: the name of the layer whose input is the key; None: the last feed-forward layer.
        ignore_index: tokens with this target are left out.

    Raises:
        ValueError: no batches; a layer that the network lacks, or with another input than [B, T, D].

    Example:
        >>> from lightning_losses.networks.transformer import Transformer
        >>> network = Transformer(vocabulary_size=9, context_length=8, width=4, depth=1, heads=2)
        >>> store = record_datastore(network, [(torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]]))])
        >>> store.keys.shape, store.values.tolist()
        (torch.Size([3, 4]), [2, 3, 4])
    """
    rows = []
    for tokens, target in batches:
        keys = logits_and_keys("record_datastore", network, tokens, layer)[1][target != ignore_index]
        rows.append((keys, target[target != ignore_index]))
    if not rows:
        raise ValueError("record_datastore: no batches came; give at least one.")
    keys, values = (torch.cat(part) for part in zip(*rows, strict=True))
    return Datastore(keys, values)


@torch.no_grad()
def logits_and_keys(
    who: str, network: nn.Module, tokens: Int[Tensor, "batch time"], layer: str | None = None
) -> tuple[Float[Tensor, "batch time vocabulary"], Float[Tensor, "batch time width"]]:
    """A network's logits and what a layer was fed for them, in evaluation mode and without gradient.

    Raises:
        ValueError: a layer that the network lacks, or with another input than [B, T, D].
    """
    with in_evaluation(network), layer_input(who, network, layer) as given:
        logits = logits_of(f"{who}: the network", call(network, tokens))
    if given.value is None or given.value.shape[:-1] != tokens.shape:
        came = None if given.value is None else list(given.value.shape)
        raise ValueError(
            f"{who}: layer={layer!r} was fed {came} for tokens of {list(tokens.shape)}; choose a layer with an input "
            "[B, T, D]."
        )
    return logits, given.value
