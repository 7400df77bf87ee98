"""Scores of how much an input is like a network's training data: larger is more like it."""

from lightning_losses.out_of_distribution.base import OutOfDistributionScore as OutOfDistributionScore
from lightning_losses.out_of_distribution.base import fit_scores as fit_scores
from lightning_losses.out_of_distribution.base import scores_of as scores_of
from lightning_losses.out_of_distribution.energy import Energy as Energy
from lightning_losses.out_of_distribution.knn import KNN as KNN
from lightning_losses.out_of_distribution.mahalanobis_detector import MahalanobisDetector as MahalanobisDetector
from lightning_losses.out_of_distribution.max_logit import MaxLogit as MaxLogit
from lightning_losses.out_of_distribution.msp import MSP as MSP
from lightning_losses.out_of_distribution.odin import ODIN as ODIN
from lightning_losses.out_of_distribution.react import ReAct as ReAct
