"""A network without its head, and a projector of its features: what self-supervised objectives train."""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.numerics.checks import check_choice, check_count

Norm = Literal["batch", "layer", "none"]


def without_head(network: nn.Module) -> int:
    """Take a network's head away, so that it returns its features, and tell how many there are.

    Args:
        network: one of the library's, with a linear `head`, or one of timm's; it is changed.

    Raises:
        ValueError: a network without a known head.

    Example:
        >>> import torch
        >>> from lightning_losses.networks import SmallCNN
        >>> network = SmallCNN(num_classes=10, width=8)
        >>> without_head(network), network(torch.zeros(2, 1, 28, 28)).shape
        (32, torch.Size([2, 32]))
    """
    given: Any = network
    if callable(getattr(network, "reset_classifier", None)):
        given.reset_classifier(0)
        return int(getattr(network, "head_hidden_size", None) or given.num_features)
    head = getattr(network, "head", None)
    if not isinstance(head, nn.Linear):
        raise ValueError(
            f"without_head: a {type(network).__name__} came, whose head is a {type(head).__name__}; give a network "
            "with a linear layer as `head`, or one of timm's."
        )
    given.head = nn.Identity()
    return head.in_features


def perceptron(widths: Sequence[int], norm: Norm = "batch") -> nn.Sequential:
    """Linear layers between these widths, each but the last with a norm and ReLU behind it.

    Example:
        >>> [type(layer).__name__ for layer in perceptron([4, 8, 2])]
        ['Linear', 'BatchNorm1d', 'ReLU', 'Linear']
    """
    check_choice("perceptron", "norm", norm, Norm)
    for width in widths:
        check_count("perceptron", "widths", width)
    norms = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(before, after, bias=norm == "none"), *([norms[norm](after)] if norm in norms else [])]
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


class ProjectedEncoder(nn.Module):
    """A network without its head, and a perceptron that projects its features to the embeddings of an objective.

    What is kept after training are the features: `features`.

    Args:
        network: with a head, which is taken away: see `without_head`.
        widths: of the projector's layers, the last that of the embeddings; at least one.
        norm: behind the projector's hidden layers: "batch" as all authors have it, which couples the samples of a
            process, or "layer" or "none", which couple none.

    Attributes:
        encoder: the network without its head.
        projector: the perceptron.
        num_features: the number of features.
        num_embeddings: D, the width of the embeddings.

    Example:
        >>> import torch
        >>> from lightning_losses.networks import SmallCNN
        >>> network = ProjectedEncoder(SmallCNN(num_classes=10, width=8), widths=[64, 16])
        >>> images = torch.zeros(2, 1, 28, 28)
        >>> network(images).shape, network.features(images).shape
        (torch.Size([2, 16]), torch.Size([2, 32]))
    """

    def __init__(self, network: nn.Module, widths: Sequence[int] = (128, 128), norm: Norm = "batch") -> None:
        super().__init__()
        if not widths:
            raise ValueError("projected_encoder: no widths came; give at least that of the embeddings.")
        self.num_features, self.num_embeddings = without_head(network), widths[-1]
        self.encoder = network
        self.projector = perceptron([self.num_features, *widths], norm)

    def features(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch features"]:
        """The features of a batch of inputs, before the projector."""
        features: Tensor = self.encoder(inputs)
        return features

    def forward(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch dim"]:
        """The embeddings of a batch of inputs."""
        embeddings: Tensor = self.projector(self.features(inputs))
        return embeddings
