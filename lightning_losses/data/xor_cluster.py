"""XOR clusters: four Gaussian clusters in high dimension, with classes that no hyperplane separates."""

from typing import Annotated

import torch

from lightning_losses.data.loading import Batch
from lightning_losses.data.resident import ResidentData
from lightning_losses.numerics.settings import Bound, Count


class XORCluster(ResidentData):
    """Two opposite clusters for each of two classes, along two orthogonal directions; noisy labels to train on.

    ``x = ±μ₁ + ξ`` has class 1 and ``x = ±μ₂ + ξ`` class 0, with ξ standard normal and |μ₁| = |μ₂|. The directions are
    the first two axes, without loss of generality for a network with isotropic initial weights. The held-out labels are
    clean.

    Args:
        dimension: dimension of x, at least 2; if it is much larger than the squared number of samples, one step
            memorises.
        signal: the norm of μ₁ and μ₂, above 0.
        label_noise: the share of flipped training labels, in [0, 0.5]; each label is flipped independently.
        train_samples: n.
        test_samples: held-out samples.
        seed: seed of everything.
        steps_per_epoch: see `ResidentData`.

    Raises:
        ValueError: numbers out of range.

    Source:
        Xu, Wang, Frei, Vardi, Hu, 2023, "Benign Overfitting and Grokking in ReLU Networks for XOR Cluster Data",
        arXiv:2310.02541; the sizes are this library's.

    Example:
        >>> data = XORCluster(dimension=50, train_samples=8, test_samples=4)
        >>> data.setup()
        >>> data.train["inputs"].shape
        torch.Size([8, 50])
    """

    name = "xor_cluster"
    num_classes = 2

    dimension: Annotated[int, Bound(least=2)] = 4000
    signal: Annotated[float, Bound(above=0, most=1e6)] = 12.0
    label_noise: Annotated[float, Bound(least=0, most=0.5)] = 0.1
    train_samples: Count = 200
    test_samples: Count = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.num_features = self.dimension

    def make(self) -> tuple[Batch, Batch]:
        """Draw both splits; flip labels of the training split."""
        generator = self.generator()
        train, test = self._draw(self.train_samples, generator), self._draw(self.test_samples, generator)
        flipped = torch.rand(self.train_samples, generator=generator) < self.label_noise
        train["target"] = torch.where(flipped, 1 - train["target"], train["target"])
        return train, test

    def _draw(self, samples: int, generator: torch.Generator) -> Batch:
        cluster = torch.randint(4, (samples,), generator=generator)
        inputs = torch.randn(samples, self.num_features, generator=generator)
        axis, sign = cluster % 2, 1 - 2 * (cluster // 2)
        inputs[torch.arange(samples), axis] += self.signal * sign
        return {"inputs": inputs, "target": 1 - axis}
