"""The kinds of losses that compare domains: by the logits of their samples, or by their features."""

from abc import abstractmethod
from dataclasses import field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.kinds import index_rows
from lightning_losses.numerics.checks import check_embeddings
from lightning_losses.numerics.divergences import cross_entropy
from lightning_losses.numerics.domains import check_domains, domain_members
from lightning_losses.numerics.probabilities import full_precision, log_probabilities
from lightning_losses.numerics.settings import Count


class DomainRows(NamedTuple):
    """Checked rows in full precision, flat, and the domain that each belongs to.

    Attributes:
        log_p: log-probabilities.
        target: class indices, 0 where a row is ignored.
        member: 1 where a row is kept and belongs to a domain, else 0.
    """

    log_p: Float[Tensor, "rows classes"]
    target: Int[Tensor, " rows"]
    member: Float[Tensor, "domains rows"]

    @property
    def present(self) -> Bool[Tensor, " domains"]:
        """Which domains have a row."""
        return self.member.sum(dim=1) > 0

    @property
    def cross_entropy(self) -> Float[Tensor, " rows"]:
        """The cross-entropy of each row."""
        return cross_entropy(self.log_p, self.target)


def domain_rows(
    who: str,
    logits: Float[Tensor, "*rows classes"],
    target: Int[Tensor, "*rows"],
    domain: Int[Tensor, "*rows"],
    num_domains: int,
    ignore_index: int,
) -> DomainRows:
    """Check logits, class indices and domains, and flatten them.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a domain out of range, on a CPU and
            under `debug`.
    """
    rows = index_rows(who, logits, target, ignore_index)
    check_domains(who, domain, rows.target, num_domains, setting="num_domains", name="target")
    kept = None if rows.kept is None else rows.kept.flatten()
    log_p = log_probabilities(rows.logits).flatten(0, -2)
    return DomainRows(log_p, rows.target.flatten(), domain_members(domain.flatten(), num_domains, kept, log_p))


class DomainPenalty(Loss):
    """A value of the batch from how the predictions of its domains differ; a term beside cross-entropy.

    On many processes the batch is that of all, so that it doesn't matter which process has which domain. A domain
    without a kept sample in the batch is left out of means and pairs.

    Args:
        num_domains: E, at least 1.
        ignore_index: rows with this target are ignored.
    """

    batch_coupled = True

    num_domains: Count
    ignore_index: int = field(default=-100, kw_only=True)

    @abstractmethod
    def measure(self, given: DomainRows) -> Float[Tensor, ""]:
        """The value of the batch."""

    def forward(
        self, logits: Float[Tensor, "*rows classes"], target: Int[Tensor, "*rows"], domain: Int[Tensor, "*rows"]
    ) -> Float[Tensor, ""]:
        """Check and evaluate; see the class."""
        rows = domain_rows(self._identifier, logits, target, domain, self.num_domains, self.ignore_index)
        with torch.autocast(rows.log_p.device.type, enabled=False):
            return self.measure(rows)


class FeaturePenalty(Loss):
    """A value of the batch from how the features of its domains differ; a term beside cross-entropy.

    Samples without a label count too. On many processes the batch is that of all. A domain without a sample in the
    batch is left out.

    Args:
        num_domains: E, at least 1.
    """

    batch_coupled = True

    num_domains: Count

    @abstractmethod
    def measure(
        self, features: Float[Tensor, "batch dim"], member: Float[Tensor, "domains batch"]
    ) -> Float[Tensor, ""]:
        """The value of the batch, from the features and which domain each belongs to."""

    def forward(self, features: Float[Tensor, "batch dim"], domain: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """Check and evaluate; see the class."""
        check_embeddings(self._identifier, "features", features)
        check_domains(
            self._identifier, domain, features[:, 0], self.num_domains, setting="num_domains", name="features' rows"
        )
        wide = full_precision(features)
        with torch.autocast(wide.device.type, enabled=False):
            return self.measure(wide, domain_members(domain, self.num_domains, None, wide))
