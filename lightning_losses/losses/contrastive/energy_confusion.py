"""Energy confusion: pulls all embeddings together, so that they do not fit the training classes alone."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.losses.kinds import ClassedEmbeddings, EmbeddingLoss
from lightning_losses.numerics.distances import squared_distances
from lightning_losses.numerics.vectors import refuse_powers


class EnergyConfusion(EmbeddingLoss):
    """Energy confusion: pulls all embeddings together, so that they do not fit the training classes alone.

    ``log(½ mean |e_i - e_j|² over pairs of one class + ½ mean |e_i - e_j|² over pairs of two)``, of embeddings that are
    not normalised. It stands with a small weight, 0.13 in the authors' code, beside a loss of metric learning, whose
    embeddings of new classes are meant to gain by it.

    The authors let it train the embedding layer alone: it is given that layer's output on features without gradient.
    `MetricLearner` offers it as `layer_embeddings`; ``inputs: {embeddings: layer_embeddings}`` of the term takes it.

    Shapes:
        embeddings: [B, D], not normalised; target: [B] classes of any numbers.

    Returns:
        A scalar, of either sign; 0 of a batch without pairs. Of embeddings that are all equal it is the logarithm of
        the smallest number, without gradient.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; on a CPU and under `debug`, embeddings
            whose squares are too large.

    Source:
        Chen, Deng, 2019, "Energy Confused Adversarial Metric Learning for Zero-Shot Image Retrieval and Clustering",
        arXiv:1901.07169, and its code, chenbinghui1/ECAML, which draws ten pairs of each sample; here all count.

    Example:
        >>> embeddings = torch.tensor([[0.0], [1.0], [3.0]])
        >>> round(EnergyConfusion()(embeddings, torch.tensor([0, 0, 1])).exp().item(), 4)
        3.75
    """

    status = "paper"
    evidence = "no golden values: the authors' code draws the pairs; the sum over all pairs in its tests"

    def measure(self, given: ClassedEmbeddings) -> Float[Tensor, ""]:
        """The logarithm of the energy."""
        refuse_powers(self._identifier, 2, embeddings=given.embeddings)
        kept = given.kept.unsqueeze(-1)
        # Differences stay, and round less near the origin.
        middle = given.embeddings.sum(dim=0) / given.kept.sum().clamp(min=1)
        rows = (given.embeddings - middle) * kept
        squared, pairs, alike = squared_distances(rows, rows), given.pairs, given.alike
        energy = (_mean(squared, pairs & alike) + _mean(squared, pairs & ~alike)) / 2
        return energy.clamp(min=torch.finfo(energy.dtype).tiny).log() * pairs.any()


def _mean(values: Float[Tensor, "batch batch"], chosen: Bool[Tensor, "batch batch"]) -> Float[Tensor, ""]:
    return (values * chosen).sum() / chosen.sum().clamp(min=1)
