"""The interface of all scores: fit to training data where needed, then a number for each input, larger if known."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.networks.calls import for_graphs
from lightning_losses.numerics.rows import class_indices
from lightning_losses.numerics.settings import Declared
from lightning_losses.out_of_distribution.measuring import Outputs, device_of, measuring, outputs_of
from lightning_losses.parallel.processes import told_by_any

# Pairs, or mappings of inputs and target.
Batches = Iterable[Any]


class OutOfDistributionScore(Declared):
    """Base of the scores of how much an input is like a network's training data: larger is more like it.

    `fit` reads training batches, if a score learns from them; on several processes each reads its own, and all have
    the score of one that reads all. ``score(network, inputs)`` then scores a batch. The network is read in evaluation
    mode; its weights, gradients, buffers and modes and torch's random states stay as they are, and Lightning's
    inference mode is no obstacle. `fit_scores` and `scores_of` read once for several scores.

    A subclass writes `score`. One that learns sets `learns` and writes `clear`, `update` and `finish`; one that reads
    layers names them in `read_layers`.

    Attributes:
        learns: whether `fit` is needed.
    """

    learns: ClassVar[bool] = False

    def fit(self, network: nn.Module, batches: Batches) -> Self:
        """Learn what training data look like.

        Args:
            network: gives logits of inputs.
            batches: as a data loader's, pairs of inputs and class indices, or mappings of ``inputs`` and ``target``;
                those of this process.

        Raises:
            ValueError: no batches on any process; layers that the network lacks; targets of other shapes.
        """
        fit_scores([self], network, batches)
        return self

    def __call__(self, network: nn.Module, inputs: Any) -> Float[Tensor, " batch"]:
        """The score of each input of a batch.

        Raises:
            ValueError: a score that learns, and was not fitted.
        """
        return scores_of({"": self}, network, inputs)[""]

    @property
    def read_layers(self) -> tuple[str, ...]:
        """The names of the layers whose outputs it reads."""
        return ()

    @property
    def fitted(self) -> bool:
        """Whether it can score."""
        return True

    @property
    def needs_tuning(self) -> bool:
        """Whether `tune` is to follow `fit`."""
        return False

    def tune(self, network: nn.Module, known: Iterable[Any], foreign: Iterable[Any]) -> Self:
        """Choose what held-out inputs of both kinds decide, if anything; every process calls it.

        Args:
            network: the one of `fit`.
            known: batches of inputs like the training data, but not of them, alone or as in `fit`; those of this
                process.
            foreign: batches of inputs that are to be told from them; those of this process.
        """
        return self

    def clear(self) -> None:
        """Forget what was learned."""

    def update(self, outputs: Outputs, target: Int[Tensor, " batch"]) -> None:
        """Learn from a batch of training data."""

    def finish(self, device: torch.device) -> None:
        """Conclude the learning, with what the other processes learned; every process calls it.

        Args:
            device: the network's, on which processes exchange tensors; a process may have seen no batch.
        """

    def score(self, network: nn.Module, inputs: Any, outputs: Outputs) -> Float[Tensor, " batch"]:
        """The score of each input; the outputs are what the network made of them."""
        raise NotImplementedError


def fit_scores(scores: Sequence[OutOfDistributionScore], network: nn.Module, batches: Batches) -> None:
    """Let several scores learn from one pass over training batches.

    Args:
        scores: those that learn nothing are left alone.
        network: gives logits of inputs.
        batches: pairs of inputs and class indices, or mappings of ``inputs`` and ``target``; those of this process.

    Raises:
        ValueError: no batches on any process; layers that the network lacks; targets of other shapes.
    """
    learning = [score for score in scores if score.learns]
    if not learning:
        return
    for score in learning:
        score.clear()
    layers = _layers(learning)
    seen = False
    with measuring(network):
        for batch in batches:
            inputs, target = _pair(learning[0].name, batch)
            if not target.numel():
                continue
            seen = True
            outputs = outputs_of(network, for_graphs(inputs), layers, learning[0].name)
            # Labels of images often come as bytes, which don't index.
            classes = class_indices(target).long()
            if classes.shape != outputs.logits.shape[:1]:
                raise ValueError(
                    f"{learning[0].name}: a target of {target.dtype} and shape {list(target.shape)} came for "
                    f"{len(outputs.logits)} inputs; give a class index, or classes' probabilities, for each."
                )
            for score in learning:
                score.update(outputs, classes)
        # Processes may have no batch of their own, but not all of them.
        if told_by_any("some" if seen else None) is None:
            raise ValueError(f"{learning[0].name}: no training batches came to fit; give at least one.")
        for score in learning:
            score.finish(device_of(network))


def scores_of(
    scores: Mapping[str, OutOfDistributionScore], network: nn.Module, inputs: Any
) -> dict[str, Float[Tensor, " batch"]]:
    """Several scores of each input of a batch; what the network makes of the inputs is computed once.

    Raises:
        ValueError: a score that learns, and was not fitted.
    """
    for score in scores.values():
        if not score.fitted:
            raise ValueError(f"{score.name}: it is not fitted; call fit(network, batches) with training data first.")
    layers = _layers(scores.values())
    with measuring(network):
        own = for_graphs(inputs)
        outputs = outputs_of(network, own, layers, next(iter(scores.values())).name)
        return {name: score.score(network, own, outputs).detach() for name, score in scores.items()}


def log_confidence(logits: Float[Tensor, "batch classes"], temperature: float = 1.0) -> Float[Tensor, " batch"]:
    """The logarithm of the largest probability, which tells confident inputs apart where the probability rounds to 1.

    Example:
        >>> log_confidence(torch.tensor([[0.0, 0.0], [50.0, 0.0]])).tolist()
        [-0.6931471805599453, -1.9287498479639178e-22]
    """
    return -torch.log1p(log_odds_of_others(logits, temperature).exp())


def log_odds_of_others(logits: Float[Tensor, "batch classes"], temperature: float = 1.0) -> Float[Tensor, " batch"]:
    """The logarithm of how much more probable all other classes are than the most probable one, in float64.

    Example:
        >>> log_odds_of_others(torch.tensor([[0.0, 0.0], [50.0, 0.0]])).tolist()
        [0.0, -50.0]
    """
    z = logits.double() / temperature
    largest, place = z.max(dim=1, keepdim=True)
    return z.scatter(1, place, -torch.inf).logsumexp(dim=1) - largest.squeeze(1)


def inputs_of(batch: Any) -> Any:
    """The inputs of a batch, which may have a target beside them.

    Example:
        >>> inputs_of({"inputs": 1, "target": 2}), inputs_of((1, 2)), inputs_of(1)
        (1, 1, 1)
    """
    if isinstance(batch, Mapping):
        return batch.get("inputs", batch)
    return batch[0] if isinstance(batch, tuple | list) else batch


def refuse_not_finite(who: str, layer: str, values: Tensor) -> None:
    """Raise ``ValueError`` if what was learned of a layer holds NaN or inf."""
    if not bool(values.isfinite().all()):
        raise ValueError(f"{who}: training features of {layer} hold NaN or inf; leave those samples out.")


def _pair(who: str, batch: Any) -> tuple[Any, Tensor]:
    if isinstance(batch, Mapping) and {"inputs", "target"} <= set(batch):
        batch = batch["inputs"], batch["target"]
    if not isinstance(batch, tuple | list) or len(batch) < 2 or not isinstance(batch[1], Tensor):
        raise ValueError(f"{who}: a batch of type {type(batch).__name__} came; give {{'inputs', 'target'}} or a pair.")
    return batch[0], batch[1]


def _layers(scores: Iterable[OutOfDistributionScore]) -> list[str]:
    return list(dict.fromkeys(layer for score in scores for layer in score.read_layers))
