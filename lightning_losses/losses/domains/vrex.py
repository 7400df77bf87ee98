"""V-REx: the risks of the domains shall be equal."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.domains.domain_penalty import DomainPenalty, DomainRows
from lightning_losses.numerics.domains import domain_means, variance_of_present


class VREx(DomainPenalty):
    """V-REx: the risks of the domains shall be equal.

    ``mean_e (R_e - mean R)²``, R_e being the mean cross-entropy of a domain's samples. Beside the mean of the risks, a
    domain's risk weighs ``(1 + 2 λ (R_e - mean R)) / E`` at the weight λ: below 0 for an easy domain where λ is large,
    which is then unlearned. So let the weight be small at first (`Switch`).

    Args:
        num_domains: E, at least 1.

    Shapes:
        logits: [..., C]; target: [...] class indices; domain: [...] int64, from 0 to E - 1.

    Returns:
        A scalar; 0 with fewer than two domains.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a domain out of range, on a CPU and
            under `debug`.

    Source:
        Krueger, Caballero, Jacobsen, Zhang, Binas, Zhang, Le Priol, Courville, 2020, "Out-of-Distribution
        Generalization via Risk Extrapolation", arXiv:2003.00688, which adds the variance to the sum of the risks;
        DomainBed adds it to their mean, to which cross-entropy is equal where batches are balanced.

    Example:
        >>> logits, target = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0])
        >>> VREx(num_domains=2)(logits, target, domain=torch.tensor([0, 1])).item()
        1.0
    """

    status = "paper"
    evidence = "facebookresearch/DomainBed, not the authors' code"

    def measure(self, given: DomainRows) -> Float[Tensor, ""]:
        """The value of the batch."""
        return variance_of_present(domain_means(given.cross_entropy, given.member), given.present)
