"""Samplers and selections of training samples."""

from lightning_losses.samplers.ddk_sampler import DomainSampler, initial_domain_weights, updated_domain_weights
from lightning_losses.samplers.difference_sampling import difference_sampling, difference_scores
from lightning_losses.samplers.robust_active_sampler import QueryDistribution, robust_active_distribution

__all__ = [
    "DomainSampler",
    "QueryDistribution",
    "difference_sampling",
    "difference_scores",
    "initial_domain_weights",
    "robust_active_distribution",
    "updated_domain_weights",
]
