"""A linear head on the hashed text encoder, for texts with classes or with very many labels."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.networks.hashed_text_encoder import HashedTextEncoder
from lightning_losses.numerics.checks import check_count, check_number


class HashedTextClassifier(nn.Module):
    """Scores of classes for hashed texts: a linear layer on `scale` times the encoder's vectors of length 1.

    Args:
        num_classes: C, the number of classes or labels.
        buckets: see `HashedTextEncoder`.
        dim: likewise.
        scale: what the vectors are multiplied by, above 0, so that scores grow fast enough.

    Shapes:
        inputs: [B, T] features from 1 on, 0 for padding; the result: [B, C].

    Raises:
        ValueError: a size below 1; a scale of 0 or less.

    Example:
        >>> import torch
        >>> HashedTextClassifier(num_classes=3, buckets=100, dim=4)(torch.ones(2, 5).long()).shape
        torch.Size([2, 3])
    """

    def __init__(self, num_classes: int, buckets: int = 8192, dim: int = 256, scale: float = 10.0) -> None:
        super().__init__()
        check_count("hashed_text_classifier", "num_classes", num_classes)
        check_number("hashed_text_classifier", "scale", scale, above=0)
        self.encoder = HashedTextEncoder(buckets, dim)
        self.head = nn.Linear(dim, num_classes)
        self.scale = scale

    def forward(self, inputs: Int[Tensor, "batch time"]) -> Float[Tensor, "batch classes"]:
        """The scores."""
        scores: Tensor = self.head(self.scale * self.encoder(inputs))
        return scores
