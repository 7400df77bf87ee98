"""Samplers and selections of training samples."""

from lightning_losses.samplers.class_balanced_sampler import ClassBalancedSampler
from lightning_losses.samplers.ddk_sampler import DomainSampler, initial_domain_weights, updated_domain_weights
from lightning_losses.samplers.difference_sampling import difference_sampling, difference_scores
from lightning_losses.samplers.disjoint_pseudo_label_sampler import DisjointPseudoLabelSampler, pseudo_labels
from lightning_losses.samplers.domain_balanced_sampler import DomainBalancedSampler
from lightning_losses.samplers.ngame_sampler import NGAMESampler, balanced_clusters
from lightning_losses.samplers.prototype_sampling import (
    SampledFeatures,
    hardness_aware_prototype_sampling,
    hardness_probabilities,
    mean_similarity,
    prototype_radius,
)
from lightning_losses.samplers.robust_active_sampler import QueryDistribution, robust_active_distribution
from lightning_losses.samplers.worst_case_forget_set import (
    ForgetSet,
    project_to_capped_simplex,
    weighted_grad_diff,
    worst_case_forget_set,
)

__all__ = [
    "ClassBalancedSampler",
    "DisjointPseudoLabelSampler",
    "DomainBalancedSampler",
    "DomainSampler",
    "ForgetSet",
    "NGAMESampler",
    "QueryDistribution",
    "SampledFeatures",
    "balanced_clusters",
    "difference_sampling",
    "difference_scores",
    "hardness_aware_prototype_sampling",
    "hardness_probabilities",
    "initial_domain_weights",
    "mean_similarity",
    "project_to_capped_simplex",
    "prototype_radius",
    "pseudo_labels",
    "robust_active_distribution",
    "updated_domain_weights",
    "weighted_grad_diff",
    "worst_case_forget_set",
]
