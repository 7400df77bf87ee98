"""DeYO: minimises the entropy of predictions that come from shapes."""

import math
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.numerics.settings import Count, Positive, Seed, Share
from lightning_losses.test_time.adaptation import Adaptation, TestTimeMethod, row_entropy
from lightning_losses.test_time.plpd import occluded, permuted_pixels, plpd, shuffled_patches


class DeYORows(NamedTuple):
    """What DeYO makes of a batch: each row's weighted entropy, and whether it counts."""

    values: Float[Tensor, " rows"]
    kept: Bool[Tensor, " rows"]


class DeYO(TestTimeMethod):
    """DeYO: minimises the entropy of predictions that come from shapes.

    The mean of ``(exp(E0 - H_i) + exp(PLPD_i)) H_i``, whose first factor is constant, over the samples with
    ``H_i < E1`` and ``PLPD_i > τ`` (`plpd`).

    Args:
        entropy_margin: E1 as a share of log C, in [0, 1].
        entropy_reference: E0 as a share of log C, above 0.
        plpd_threshold: τ; the authors' 0.2 is for ImageNet-C, and other data have others. -1 keeps all.
        destroy: "patch" shuffles patches of each image, "pixel" all pixels of the batch alike, "occlusion" covers a
            square in the middle.
        pieces: patches in each direction.
        occlusion: the covered square's side as a share of the smaller side of the images, in [0, 1].
        reweight_entropy, reweight_plpd: whether the two factors count; without either, all kept samples count alike.
        seed: of the shuffling.
        lr, optimizer, include, exclude: see `TestTimeMethod`.

    Source:
        Lee, Jung, Lee, Park, Shin, Hwang, Yoon, 2024, "Entropy is not Enough for Test-Time Adaptation: From the
        Perspective of Disentangled Factors", arXiv:2403.07366, and its code, Jhyun17/DeYO. It evaluates the destroyed
        images of certain samples alone, which are then the batch that is normalised; this those of all, on whose number
        nothing depends. Its square has a place that is given.

    Example:
        >>> from lightning_losses.test_time import Adaptation
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3), torch.nn.LayerNorm(3))
        >>> with Adaptation(network, DeYO(entropy_margin=1.0, plpd_threshold=0.0)):
        ...     network(torch.randn(8, 1, 8, 8)).shape
        torch.Size([8, 3])
    """

    name = "deyo"

    entropy_margin: Share = 0.5
    entropy_reference: Positive = 0.4
    plpd_threshold: float = 0.2
    destroy: Literal["patch", "pixel", "occlusion"] = "patch"
    pieces: Count = 4
    occlusion: Share = 0.5
    reweight_entropy: bool = True
    reweight_plpd: bool = True
    seed: Seed = 0

    def adapt(self, run: Adaptation, inputs: Any) -> Float[Tensor, "*rows classes"]:
        """Take a step on a batch, and predict."""
        if not isinstance(inputs, Tensor) or inputs.ndim != 4:
            came = f"of shape {list(inputs.shape)}" if isinstance(inputs, Tensor) else f"as a {type(inputs).__name__}"
            raise ValueError(f"deyo: inputs {came} came; give images [batch, channels, height, width].")
        logits, number = run.logits(), int(run.state.get("batches", torch.tensor(0)))
        run.state["batches"] = torch.tensor(number + 1)
        with torch.no_grad():
            destroyed_logits = run.logits(self.destroyed(inputs, number))
        classes = math.log(logits.shape[-1])
        rows = deyo_rows(
            logits,
            destroyed_logits,
            entropy_margin=self.entropy_margin * classes,
            entropy_reference=self.entropy_reference * classes,
            plpd_threshold=self.plpd_threshold,
            reweight_entropy=self.reweight_entropy,
            reweight_plpd=self.reweight_plpd,
        )
        run.step(rows.values, rows.kept)
        return logits

    def destroyed(self, images: Float[Tensor, "batch channels height width"], number: int) -> Tensor:
        """The images without their shapes; a batch's number decides by which random numbers."""
        generator = torch.Generator().manual_seed((self.seed + 1_000_003 * number) % 2**63)
        if self.destroy == "patch":
            return shuffled_patches(images, self.pieces, generator)
        if self.destroy == "pixel":
            return permuted_pixels(images, generator)
        size = round(self.occlusion * min(images.shape[2:]))
        row, column = ((side - size) // 2 for side in images.shape[2:])
        return occluded(images, size, row, column)


def deyo_rows(
    logits: Float[Tensor, "*rows classes"],
    destroyed_logits: Float[Tensor, "*rows classes"],
    *,
    entropy_margin: float,
    entropy_reference: float,
    plpd_threshold: float,
    reweight_entropy: bool = True,
    reweight_plpd: bool = True,
) -> DeYORows:
    """Each row's weighted entropy, and which rows are certain because of shapes; margins in nats."""
    entropy, difference = row_entropy(logits), plpd(logits.detach(), destroyed_logits).flatten()
    certain, weight = entropy.detach(), torch.zeros_like(difference)
    if reweight_entropy:
        weight = weight + (entropy_reference - certain).exp()
    if reweight_plpd:
        weight = weight + difference.exp()
    if not (reweight_entropy or reweight_plpd):
        weight = weight + 1
    return DeYORows(weight * entropy, (certain < entropy_margin) & (difference > plpd_threshold))
