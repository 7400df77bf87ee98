"""Statistics of a batch's rows by the domain, or group, that each belongs to."""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_losses.numerics.checks import debugging
from lightning_losses.numerics.probabilities import known_somewhere


def check_domains(
    who: str, domain: Int[Tensor, "*rows"], beside: Shaped[Tensor, "*rows"], number: int, *, setting: str, name: str
) -> None:
    """Raise ``ValueError`` unless each row has a domain from 0 on.

    Args:
        who: the name that errors begin with.
        domain: the int64 domain of each row.
        beside: a tensor with an entry for each row.
        number: how many domains there are; what lies outside is refused on a CPU and under `debug`.
        setting: what the number is called.
        name: what the tensor beside is called.

    Example:
        >>> check_domains("demo", torch.tensor([0, 2]), torch.zeros(2), 2, setting="num_domains", name="target")
        Traceback (most recent call last):
        ValueError: demo: domain 2 came with num_domains=2; give 0 to 1.
    """
    if not isinstance(domain, Tensor) or domain.dtype != torch.int64 or domain.shape != beside.shape:
        came = f"{domain.dtype} {list(domain.shape)}" if isinstance(domain, Tensor) else f"a {type(domain).__name__}"
        raise ValueError(
            f"{who}: domain ({came}) came with {name} of shape {list(beside.shape)}; give the int64 "
            f"{setting.removeprefix('num_').removesuffix('s')} of each row."
        )
    wrong = (domain < 0) | (domain >= number)
    if known_somewhere(wrong) or (debugging() and bool(wrong.any())):
        raise ValueError(f"{who}: domain {int(domain[wrong][0])} came with {setting}={number}; give 0 to {number - 1}.")


def domain_members(
    domain: Int[Tensor, " rows"], number: int, kept: Bool[Tensor, " rows"] | None, like: Float[Tensor, "..."]
) -> Float[Tensor, "domains rows"]:
    """1 where a row is kept and belongs to a domain, else 0.

    Example:
        >>> domain_members(torch.tensor([0, 1, 1]), 2, torch.tensor([True, True, False]), torch.zeros(1))
        tensor([[1., 0., 0.],
                [0., 1., 0.]])
    """
    member = domain.unsqueeze(0) == torch.arange(number, device=domain.device).unsqueeze(1)
    return (member if kept is None else member & kept.unsqueeze(0)).to(like.dtype)


def domain_means(values: Float[Tensor, " rows"], member: Float[Tensor, "domains rows"]) -> Float[Tensor, " domains"]:
    """The mean of each domain's rows; 0 for a domain without any.

    Example:
        >>> domain_means(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]))
        tensor([1., 3.])
    """
    # A product with 0 would make NaN of the infinite value of another domain.
    sums = torch.where(member > 0, values, 0.0).sum(dim=1)
    return sums / member.sum(dim=1).clamp(min=1)


def mean_of_present(
    values: Float[Tensor, "domains *entries"], present: Bool[Tensor, " domains"]
) -> Float[Tensor, "*entries"]:
    """The mean over the domains that are present; 0 without any.

    Example:
        >>> mean_of_present(torch.tensor([1.0, 5.0, 9.0]), torch.tensor([True, False, True]))
        tensor(5.)
    """
    total = values.masked_fill(~_beside(present, values), 0.0).sum(dim=0)
    return total / present.sum().clamp(min=1)


def variance_of_present(
    values: Float[Tensor, "domains *entries"], present: Bool[Tensor, " domains"]
) -> Float[Tensor, "*entries"]:
    """The variance over the domains that are present, divided by their number; 0 with fewer than two.

    Example:
        >>> variance_of_present(torch.tensor([1.0, 5.0, 9.0]), torch.tensor([True, False, True]))
        tensor(16.)
    """
    return mean_of_present((values - mean_of_present(values, present)).square(), present)


def mean_over_pairs(
    values: Float[Tensor, "domains *entries"], present: Bool[Tensor, " domains"]
) -> Float[Tensor, "*entries"]:
    """The mean of ``(a - b)²`` over all pairs of domains that are present; 0 with fewer than two.

    It is twice the unbiased variance, so that no pair has to be formed.

    Example:
        >>> mean_over_pairs(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([True, True, True]))
        tensor(4.6667)
    """
    number = present.sum()
    return 2 * number / (number - 1).clamp(min=1) * variance_of_present(values, present)


def _beside(present: Bool[Tensor, " domains"], values: Tensor) -> Bool[Tensor, "domains ..."]:
    return present.view(-1, *(1 for _ in values.shape[1:]))
