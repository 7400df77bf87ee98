"""Callbacks: one file per intervention or monitor."""

from typing import TYPE_CHECKING, Any

from lightning_losses.environment.extras import require
from lightning_losses.environment.lazy_exports import exports, lazily

# Loaded on first use: most of them draw, and a recipe without them doesn't load the plotting libraries.
if TYPE_CHECKING:
    from lightning_losses.callbacks.calibration.calibration_monitor import CalibrationMonitor as CalibrationMonitor
    from lightning_losses.callbacks.calibration.post_hoc_calibration import PostHocCalibration as PostHocCalibration
    from lightning_losses.callbacks.companions.adafocal_bins import AdaFocalBins as AdaFocalBins
    from lightning_losses.callbacks.companions.class_centroids import ClassCentroids as ClassCentroids
    from lightning_losses.callbacks.companions.class_counts import ClassCounts as ClassCounts
    from lightning_losses.callbacks.companions.class_means import ClassMeans as ClassMeans
    from lightning_losses.callbacks.companions.deferred_reweighting import DeferredReweighting as DeferredReweighting
    from lightning_losses.callbacks.companions.domain_weights import DomainWeights as DomainWeights
    from lightning_losses.callbacks.companions.ngame_clusters import NGAMEClusters as NGAMEClusters
    from lightning_losses.callbacks.interventions.adaptive_noise import AdaptiveNoise as AdaptiveNoise
    from lightning_losses.callbacks.interventions.asam import ASAM as ASAM
    from lightning_losses.callbacks.interventions.cyclical_sgmcmc import CyclicalSGMCMC as CyclicalSGMCMC
    from lightning_losses.callbacks.interventions.dynamic_ema import DynamicEMA as DynamicEMA
    from lightning_losses.callbacks.interventions.grokfast import Grokfast as Grokfast
    from lightning_losses.callbacks.interventions.numerics_guard import NumericsGuard as NumericsGuard
    from lightning_losses.callbacks.interventions.orthogonal_gradient import OrthogonalGradient as OrthogonalGradient
    from lightning_losses.callbacks.interventions.restart_optimizer import RestartOptimizer as RestartOptimizer
    from lightning_losses.callbacks.interventions.sam import SAM as SAM
    from lightning_losses.callbacks.interventions.second_gradient import SecondGradient as SecondGradient
    from lightning_losses.callbacks.interventions.surrogate_gradient_norm import (
        SurrogateGradientNorm as SurrogateGradientNorm,
    )
    from lightning_losses.callbacks.interventions.swag import SWAG as SWAG
    from lightning_losses.callbacks.interventions.test_time_adaptation import TestTimeAdaptation as TestTimeAdaptation
    from lightning_losses.callbacks.interventions.weight_aligning import WeightAligning as WeightAligning
    from lightning_losses.callbacks.interventions.weight_norm_projection import (
        WeightNormProjection as WeightNormProjection,
    )
    from lightning_losses.callbacks.monitors.adversarial_error_scaling import (
        AdversarialErrorScaling as AdversarialErrorScaling,
    )
    from lightning_losses.callbacks.monitors.alignment_uniformity import AlignmentUniformity as AlignmentUniformity
    from lightning_losses.callbacks.monitors.attention_entropy import AttentionEntropy as AttentionEntropy
    from lightning_losses.callbacks.monitors.attention_logits import AttentionLogits as AttentionLogits
    from lightning_losses.callbacks.monitors.continual_evaluation import ContinualEvaluation as ContinualEvaluation
    from lightning_losses.callbacks.monitors.diffusion_spectral_entropy import (
        DiffusionSpectralEntropy as DiffusionSpectralEntropy,
    )
    from lightning_losses.callbacks.monitors.embedding_evaluation import EmbeddingEvaluation as EmbeddingEvaluation
    from lightning_losses.callbacks.monitors.empirical_ntk import EmpiricalNTK as EmpiricalNTK
    from lightning_losses.callbacks.monitors.few_shot_evaluation import FewShotEvaluation as FewShotEvaluation
    from lightning_losses.callbacks.monitors.gradient_conflict import GradientConflict as GradientConflict
    from lightning_losses.callbacks.monitors.grokking_monitor import GrokkingMonitor as GrokkingMonitor
    from lightning_losses.callbacks.monitors.hessian_spectrum import HessianSpectrum as HessianSpectrum
    from lightning_losses.callbacks.monitors.information_plane import InformationPlane as InformationPlane
    from lightning_losses.callbacks.monitors.intrinsic_dimension import IntrinsicDimension as IntrinsicDimension
    from lightning_losses.callbacks.monitors.knn_evaluation import KNNEvaluation as KNNEvaluation
    from lightning_losses.callbacks.monitors.learning_rate_sensitivity import (
        LearningRateSensitivity as LearningRateSensitivity,
    )
    from lightning_losses.callbacks.monitors.linear_evaluation import LinearEvaluation as LinearEvaluation
    from lightning_losses.callbacks.monitors.linear_mode_connectivity import (
        LinearModeConnectivity as LinearModeConnectivity,
    )
    from lightning_losses.callbacks.monitors.mixup_configuration import MixupConfiguration as MixupConfiguration
    from lightning_losses.callbacks.monitors.neural_collapse import NeuralCollapse as NeuralCollapse
    from lightning_losses.callbacks.monitors.nlm_cosine import NLMCosine as NLMCosine
    from lightning_losses.callbacks.monitors.opposing_signals import OpposingSignals as OpposingSignals
    from lightning_losses.callbacks.monitors.out_of_distribution import OutOfDistribution as OutOfDistribution
    from lightning_losses.callbacks.monitors.output_logits import OutputLogits as OutputLogits
    from lightning_losses.callbacks.monitors.projection_gap import ProjectionGap as ProjectionGap
    from lightning_losses.callbacks.monitors.robust_accuracy import RobustAccuracy as RobustAccuracy
    from lightning_losses.callbacks.monitors.shot_accuracy_monitor import ShotAccuracyMonitor as ShotAccuracyMonitor
    from lightning_losses.callbacks.monitors.softmax_collapse import SoftmaxCollapse as SoftmaxCollapse
    from lightning_losses.callbacks.monitors.weight_norms import WeightNorms as WeightNorms
    from lightning_losses.callbacks.monitors.zero_gradients import ZeroGradients as ZeroGradients
    from lightning_losses.callbacks.records.datastore_record import DatastoreRecord as DatastoreRecord
    from lightning_losses.callbacks.records.history import History as History
    from lightning_losses.callbacks.records.metrics_file import MetricsFile as MetricsFile
    from lightning_losses.callbacks.records.progress import Progress as Progress
else:

    def __getattr__(name: str) -> Any:
        if name == "Progress":
            require(f"{__name__}.Progress", "rich")
        return lazily(__name__, __file__, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *exports(__file__)])
