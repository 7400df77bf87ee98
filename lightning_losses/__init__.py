"""Training objectives beyond cross-entropy for PyTorch Lightning."""

from typing import TYPE_CHECKING, Any

from lightning_losses.environment.lazy_exports import exports, lazily

__version__ = "0.1.0"

# Loaded when they are asked for: a loss needs no Lightning, and a configuration no torch.
if TYPE_CHECKING:
    from lightning_losses.kernels.choice import choose_implementation as choose_implementation
    from lightning_losses.kernels.chunked_head import chunked_head as chunked_head
    from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy as linear_cross_entropy
    from lightning_losses.kernels.linear_distillation import linear_distillation as linear_distillation
    from lightning_losses.kernels.linear_margin_loss import linear_margin_loss as linear_margin_loss
    from lightning_losses.kernels.linear_spherical_z_loss import linear_spherical_z_loss as linear_spherical_z_loss
    from lightning_losses.kernels.linear_stablemax_cross_entropy import (
        linear_stablemax_cross_entropy as linear_stablemax_cross_entropy,
    )
    from lightning_losses.kernels.vocab_parallel import vocab_parallel_cross_entropy as vocab_parallel_cross_entropy
    from lightning_losses.losses import AGCE as AGCE
    from lightning_losses.losses import ALDRKL as ALDRKL
    from lightning_losses.losses import AMCL as AMCL
    from lightning_losses.losses import AUL as AUL
    from lightning_losses.losses import BDKD as BDKD
    from lightning_losses.losses import CKA as CKA
    from lightning_losses.losses import CRD as CRD
    from lightning_losses.losses import DACKL as DACKL
    from lightning_losses.losses import DCA as DCA
    from lightning_losses.losses import DKD as DKD
    from lightning_losses.losses import EBV as EBV
    from lightning_losses.losses import ELR as ELR
    from lightning_losses.losses import GCE as GCE
    from lightning_losses.losses import GJS as GJS
    from lightning_losses.losses import GPG as GPG
    from lightning_losses.losses import ICNN as ICNN
    from lightning_losses.losses import KD as KD
    from lightning_losses.losses import LDAM as LDAM
    from lightning_losses.losses import LDRKL as LDRKL
    from lightning_losses.losses import MCMI as MCMI
    from lightning_losses.losses import MDCA as MDCA
    from lightning_losses.losses import MESA as MESA
    from lightning_losses.losses import MMCE as MMCE
    from lightning_losses.losses import NCE as NCE
    from lightning_losses.losses import NGCE as NGCE
    from lightning_losses.losses import NKD as NKD
    from lightning_losses.losses import OFAKD as OFAKD
    from lightning_losses.losses import PAMC as PAMC
    from lightning_losses.losses import PSKD as PSKD
    from lightning_losses.losses import RCE as RCE
    from lightning_losses.losses import RKD as RKD
    from lightning_losses.losses import SAF as SAF
    from lightning_losses.losses import SCE as SCE
    from lightning_losses.losses import TCM as TCM
    from lightning_losses.losses import UNPG as UNPG
    from lightning_losses.losses import USKD as USKD
    from lightning_losses.losses import WDR as WDR
    from lightning_losses.losses import ABDivergence as ABDivergence
    from lightning_losses.losses import AdaFocal as AdaFocal
    from lightning_losses.losses import AdaptiveAlphaDivergence as AdaptiveAlphaDivergence
    from lightning_losses.losses import AdaptiveKL as AdaptiveKL
    from lightning_losses.losses import AggregateLoss as AggregateLoss
    from lightning_losses.losses import AlignedVocabulary as AlignedVocabulary
    from lightning_losses.losses import AlignmentUniformity as AlignmentUniformity
    from lightning_losses.losses import AnyLoss as AnyLoss
    from lightning_losses.losses import ArcFace as ArcFace
    from lightning_losses.losses import Asymmetric as Asymmetric
    from lightning_losses.losses import AttentionTransfer as AttentionTransfer
    from lightning_losses.losses import AvUC as AvUC
    from lightning_losses.losses import BalancedSoftmax as BalancedSoftmax
    from lightning_losses.losses import BarlowTwins as BarlowTwins
    from lightning_losses.losses import BetaNLL as BetaNLL
    from lightning_losses.losses import BiasLoss as BiasLoss
    from lightning_losses.losses import BinaryKL as BinaryKL
    from lightning_losses.losses import BinaryKLNorm as BinaryKLNorm
    from lightning_losses.losses import BiTempered as BiTempered
    from lightning_losses.losses import Brier as Brier
    from lightning_losses.losses import ClassBalanced as ClassBalanced
    from lightning_losses.losses import ClassRelationKD as ClassRelationKD
    from lightning_losses.losses import CompSum as CompSum
    from lightning_losses.losses import ConceptL1 as ConceptL1
    from lightning_losses.losses import ConfidencePenalty as ConfidencePenalty
    from lightning_losses.losses import CorrectnessAware as CorrectnessAware
    from lightning_losses.losses import CosFace as CosFace
    from lightning_losses.losses import CrammerSinger as CrammerSinger
    from lightning_losses.losses import CrossEntropy as CrossEntropy
    from lightning_losses.losses import CRPSEnsemble as CRPSEnsemble
    from lightning_losses.losses import CRPSGaussian as CRPSGaussian
    from lightning_losses.losses import CSInformationBottleneck as CSInformationBottleneck
    from lightning_losses.losses import ClipContrastive as ClipContrastive
    from lightning_losses.losses import DecoupledSoftmax as DecoupledSoftmax
    from lightning_losses.losses import DeiTDistill as DeiTDistill
    from lightning_losses.losses import DINOLoss as DINOLoss
    from lightning_losses.losses import DROInstanceReweighting as DROInstanceReweighting
    from lightning_losses.losses import DualFocal as DualFocal
    from lightning_losses.losses import EnergyConfusion as EnergyConfusion
    from lightning_losses.losses import EnergyNLL as EnergyNLL
    from lightning_losses.losses import EnergyScore as EnergyScore
    from lightning_losses.losses import EnsLoss as EnsLoss
    from lightning_losses.losses import EntmaxLoss as EntmaxLoss
    from lightning_losses.losses import EvidentialClassification as EvidentialClassification
    from lightning_losses.losses import EvidentialRegression as EvidentialRegression
    from lightning_losses.losses import FitNetHint as FitNetHint
    from lightning_losses.losses import Focal as Focal
    from lightning_losses.losses import FocalAdaptive as FocalAdaptive
    from lightning_losses.losses import ForwardKL as ForwardKL
    from lightning_losses.losses import GaussianNLL as GaussianNLL
    from lightning_losses.losses import GeneralizedJSD as GeneralizedJSD
    from lightning_losses.losses import GlocalAlignment as GlocalAlignment
    from lightning_losses.losses import GroupDRO as GroupDRO
    from lightning_losses.losses import GroupKD as GroupKD
    from lightning_losses.losses import GumbelConceptLoss as GumbelConceptLoss
    from lightning_losses.losses import Hill as Hill
    from lightning_losses.losses import HLGauss as HLGauss
    from lightning_losses.losses import HardContrastive as HardContrastive
    from lightning_losses.losses import HybridMultilabel as HybridMultilabel
    from lightning_losses.losses import HypCE as HypCE
    from lightning_losses.losses import HypPC as HypPC
    from lightning_losses.losses import KLTop as KLTop
    from lightning_losses.losses import LoadBalancing as LoadBalancing
    from lightning_losses.losses import LogitAdjustment as LogitAdjustment
    from lightning_losses.losses import LogitStdKD as LogitStdKD
    from lightning_losses.losses import LogSphericalSoftmax as LogSphericalSoftmax
    from lightning_losses.losses import LogTaylorSoftmax as LogTaylorSoftmax
    from lightning_losses.losses import Loss as Loss
    from lightning_losses.losses import MadaCos as MadaCos
    from lightning_losses.losses import MAEReduced as MAEReduced
    from lightning_losses.losses import MarginLogPenalty as MarginLogPenalty
    from lightning_losses.losses import MaxSim as MaxSim
    from lightning_losses.losses import MbLS as MbLS
    from lightning_losses.losses import MIAlpha as MIAlpha
    from lightning_losses.losses import MixedBarlowTwins as MixedBarlowTwins
    from lightning_losses.losses import MMCEWeighted as MMCEWeighted
    from lightning_losses.losses import MTARDBalance as MTARDBalance
    from lightning_losses.losses import MultiAspectKD as MultiAspectKD
    from lightning_losses.losses import MultiFocalModifier as MultiFocalModifier
    from lightning_losses.losses import MultiGrainedFocal as MultiGrainedFocal
    from lightning_losses.losses import MultilabelInfoNCE as MultilabelInfoNCE
    from lightning_losses.losses import MWLoss as MWLoss
    from lightning_losses.losses import NCEAndAGCE as NCEAndAGCE
    from lightning_losses.losses import NCEAndRCE as NCEAndRCE
    from lightning_losses.losses import NDLoss as NDLoss
    from lightning_losses.losses import NegativeCosine as NegativeCosine
    from lightning_losses.losses import NodeCompactness as NodeCompactness
    from lightning_losses.losses import NormalizedSoftmax as NormalizedSoftmax
    from lightning_losses.losses import NTXent as NTXent
    from lightning_losses.losses import OFAStages as OFAStages
    from lightning_losses.losses import Pinball as Pinball
    from lightning_losses.losses import PreciseCrossEntropy as PreciseCrossEntropy
    from lightning_losses.losses import ProtoTriplet as ProtoTriplet
    from lightning_losses.losses import RankMixupMNDCG as RankMixupMNDCG
    from lightning_losses.losses import RankMixupMRL as RankMixupMRL
    from lightning_losses.losses import RDrop as RDrop
    from lightning_losses.losses import ReflectiveLabelCorrector as ReflectiveLabelCorrector
    from lightning_losses.losses import ReverseKL as ReverseKL
    from lightning_losses.losses import RouterZLoss as RouterZLoss
    from lightning_losses.losses import SAEAuxK as SAEAuxK
    from lightning_losses.losses import SelfDistillGT as SelfDistillGT
    from lightning_losses.losses import SigmoidContrastive as SigmoidContrastive
    from lightning_losses.losses import SimilarityPreserving as SimilarityPreserving
    from lightning_losses.losses import SinKD as SinKD
    from lightning_losses.losses import SkewKL as SkewKL
    from lightning_losses.losses import SkewRKL as SkewRKL
    from lightning_losses.losses import SoftAvUC as SoftAvUC
    from lightning_losses.losses import SoftBinnedECE as SoftBinnedECE
    from lightning_losses.losses import SoftEntropyRegularization as SoftEntropyRegularization
    from lightning_losses.losses import SoftTopKLoss as SoftTopKLoss
    from lightning_losses.losses import SpanCorrelation as SpanCorrelation
    from lightning_losses.losses import SparsemaxLoss as SparsemaxLoss
    from lightning_losses.losses import SphericalZLoss as SphericalZLoss
    from lightning_losses.losses import StableMaxCrossEntropy as StableMaxCrossEntropy
    from lightning_losses.losses import SymmetricKL as SymmetricKL
    from lightning_losses.losses import TGeoKD as TGeoKD
    from lightning_losses.losses import TopTwoSoftLabels as TopTwoSoftLabels
    from lightning_losses.losses import TotalVariation as TotalVariation
    from lightning_losses.losses import Triplet as Triplet
    from lightning_losses.losses import TripletOHNM as TripletOHNM
    from lightning_losses.losses import TruncatedGCE as TruncatedGCE
    from lightning_losses.losses import TwoHot as TwoHot
    from lightning_losses.losses import VICReg as VICReg
    from lightning_losses.losses import WassersteinPredictiveCoding as WassersteinPredictiveCoding
    from lightning_losses.losses import WestonWatkins as WestonWatkins
    from lightning_losses.losses import ZLoss as ZLoss
    from lightning_losses.losses.adapted import Adapted as Adapted
    from lightning_losses.mixins import CoTeachingMixin as CoTeachingMixin
    from lightning_losses.mixins import DistillationMixin as DistillationMixin
    from lightning_losses.mixins import EMATeacherMixin as EMATeacherMixin
    from lightning_losses.mixins import LanguageHeadMixin as LanguageHeadMixin
    from lightning_losses.mixins import ObjectiveMixin as ObjectiveMixin
    from lightning_losses.mixins import OnlineDistillationMixin as OnlineDistillationMixin
    from lightning_losses.mixins import SelfDistillationMixin as SelfDistillationMixin
    from lightning_losses.modules import Classifier as Classifier
    from lightning_losses.modules import Distiller as Distiller
    from lightning_losses.modules import OnlineDistiller as OnlineDistiller
    from lightning_losses.modules.language_model import LanguageModel as LanguageModel
    from lightning_losses.modules.language_model import LanguageModelDistiller as LanguageModelDistiller
    from lightning_losses.numerics.checks import debug as debug
    from lightning_losses.objective import Criterion as Criterion
    from lightning_losses.objective import Objective as Objective
    from lightning_losses.objective import Term as Term
    from lightning_losses.objective import WarmUp as WarmUp
    from lightning_losses.parallel.processes import gather_batch as gather_batch
    from lightning_losses.teachers import CachedLogits as CachedLogits
    from lightning_losses.teachers import FeatureTap as FeatureTap
    from lightning_losses.teachers import TeacherEnsemble as TeacherEnsemble
    from lightning_losses.teachers import WithoutAdapters as WithoutAdapters
    from lightning_losses.teachers import checkpoint_teacher as checkpoint_teacher
    from lightning_losses.teachers import load_cached_teacher as load_cached_teacher
    from lightning_losses.teachers import timm_teacher as timm_teacher
    from lightning_losses.teachers.cache_teacher import cache_teacher as cache_teacher
else:

    def __getattr__(name: str) -> Any:
        return lazily(__name__, __file__, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *exports(__file__)])
