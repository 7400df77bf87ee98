"""Classifiers of a few labelled samples that learn from the unlabelled ones which they are to classify."""

from lightning_losses.transduction.laplacian_kmeans import LaplacianKMeans as LaplacianKMeans
from lightning_losses.transduction.laplacian_kmeans import Transduced as Transduced
from lightning_losses.transduction.repri import RePRI as RePRI
from lightning_losses.transduction.repri import Segmented as Segmented
from lightning_losses.transduction.repri_terms import Prototype as Prototype
from lightning_losses.transduction.repri_terms import RePRITerms as RePRITerms
from lightning_losses.transduction.repri_terms import repri_terms as repri_terms
