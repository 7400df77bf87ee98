"""NoiseFiT: two passes with noise in some layers agree with the pass without it, and with each other."""

from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.losses.kinds import RowLoss, index_rows
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import full_precision, log_probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.settings import Temperature, Weight


class NoiseFiT(RowLoss):
    """NoiseFiT: two passes with noise in some layers agree with the pass without it, and with each other.

    With p, q₁ and q₂ the softmax of the logits without noise, over the temperature τ, and of the two with it

    ``w_s (KL(p || q₁) + KL(p || q₂)) / 2 + w_c KL(q₂ || q₁)``.

    It stands beside cross-entropy with a weight of 1 - w_s. The callback `AdaptiveNoise` chooses the layers and makes
    the noise, `NoisyPassesMixin` the passes; a fused head takes it by `linear_noisefit`, as `LanguageModel` does.

    Args:
        soft_weight: w_s, at least 0.
        consistency_weight: w_c, at least 0.
        temperature: τ, above 0, of p alone.
        detach_targets: whether p, and q₂ in the last term, are constants; in the authors' code they are not.

    Shapes:
        logits, noisy_logits, noisy_logits_b: [..., C]; target: [...] class indices, which only tell the ignored rows.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range.

    Source:
        Khadangi, Sartipi, Tchappi, Bahmani, 2025, "Noise Augmented Fine Tuning for Mitigating Hallucinations in Large
        Language Models", arXiv:2504.03302, and its code, akhadangi/NoiseFiT (v1), which compares labels with the logits
        of the token before for cross-entropy, but with those in place to ignore rows here.

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
        >>> NoiseFiT()(logits, logits, logits, target).item()
        0.0
        >>> round(NoiseFiT()(logits, -logits, logits, target).item(), 4)
        0.1617
    """

    status = "confirmed"
    evidence = "akhadangi/NoiseFiT"

    soft_weight: Weight = 0.5
    consistency_weight: Weight = 0.1
    temperature: Temperature = 1.0
    detach_targets: bool = False

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        noisy_logits: Float[Tensor, "*rows classes"],
        noisy_logits_b: Float[Tensor, "*rows classes"],
        target: Int[Tensor, "*rows"],
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        given = index_rows(self._identifier, logits, target, self.ignore_index)
        noisy = []
        for name, tensor in (("noisy_logits", noisy_logits), ("noisy_logits_b", noisy_logits_b)):
            check_floating(self._identifier, name, tensor)
            if tensor.shape != logits.shape:
                raise ValueError(
                    f"{self._identifier}: {name} of shape {list(tensor.shape)} came with logits of shape "
                    f"{list(logits.shape)}; give those of the same rows."
                )
            wide = full_precision(tensor)
            noisy.append(wide if given.kept is None else wide.masked_fill(~given.kept.unsqueeze(-1), 0.0))
        log_p = log_probabilities(given.logits, self.temperature)
        first, second = map(log_probabilities, noisy)
        anchor = second.detach() if self.detach_targets else second
        if self.detach_targets:
            log_p = log_p.detach()
        soft = (kl_divergence(log_p, first) + kl_divergence(log_p, second)) / 2
        value = self.soft_weight * soft + self.consistency_weight * kl_divergence(anchor, first)
        return reduce(value, self.reduction, given.kept)
