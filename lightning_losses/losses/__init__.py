"""Every loss, by its class name.

Losses that other distributions register are reached by their class names too.
"""

from typing import TYPE_CHECKING, Any

from lightning_losses.environment.lazy_exports import exports, lazily

# Loaded on first use: a project that needs one loss doesn't wait for all of them.
if TYPE_CHECKING:
    from lightning_losses.losses.alignment.bradley_terry import BradleyTerry as BradleyTerry
    from lightning_losses.losses.alignment.f_dpg import FDPG as FDPG
    from lightning_losses.losses.alignment.kto import KTO as KTO
    from lightning_losses.losses.alignment.reference_kl import ReferenceKL as ReferenceKL
    from lightning_losses.losses.alignment.spo_degree import SPODegree as SPODegree
    from lightning_losses.losses.base import Loss as Loss
    from lightning_losses.losses.classification.bias_loss import BiasLoss as BiasLoss
    from lightning_losses.losses.classification.comp_sum import CompSum as CompSum
    from lightning_losses.losses.classification.crammer_singer import CrammerSinger as CrammerSinger
    from lightning_losses.losses.classification.cross_entropy import CrossEntropy as CrossEntropy
    from lightning_losses.losses.classification.energy_nll import EnergyNLL as EnergyNLL
    from lightning_losses.losses.classification.entmax_loss import EntmaxLoss as EntmaxLoss
    from lightning_losses.losses.classification.evidential_classification import (
        EvidentialClassification as EvidentialClassification,
    )
    from lightning_losses.losses.classification.ldr_kl import LDRKL as LDRKL
    from lightning_losses.losses.classification.log_spherical_softmax import LogSphericalSoftmax as LogSphericalSoftmax
    from lightning_losses.losses.classification.log_taylor_softmax import LogTaylorSoftmax as LogTaylorSoftmax
    from lightning_losses.losses.classification.precise_cross_entropy import PreciseCrossEntropy as PreciseCrossEntropy
    from lightning_losses.losses.classification.sparsemax_loss import SparsemaxLoss as SparsemaxLoss
    from lightning_losses.losses.classification.spherical_z_loss import SphericalZLoss as SphericalZLoss
    from lightning_losses.losses.classification.stablemax_cross_entropy import (
        StableMaxCrossEntropy as StableMaxCrossEntropy,
    )
    from lightning_losses.losses.classification.top_two_soft_labels import TopTwoSoftLabels as TopTwoSoftLabels
    from lightning_losses.losses.classification.weston_watkins import WestonWatkins as WestonWatkins
    from lightning_losses.losses.confidence.adafocal import AdaFocal as AdaFocal
    from lightning_losses.losses.confidence.avuc import AvUC as AvUC
    from lightning_losses.losses.confidence.brier import Brier as Brier
    from lightning_losses.losses.confidence.confidence_penalty import ConfidencePenalty as ConfidencePenalty
    from lightning_losses.losses.confidence.correctness_aware import CorrectnessAware as CorrectnessAware
    from lightning_losses.losses.confidence.dca import DCA as DCA
    from lightning_losses.losses.confidence.dual_focal import DualFocal as DualFocal
    from lightning_losses.losses.confidence.focal import Focal as Focal
    from lightning_losses.losses.confidence.focal_adaptive import FocalAdaptive as FocalAdaptive
    from lightning_losses.losses.confidence.mbls import MbLS as MbLS
    from lightning_losses.losses.confidence.mdca import MDCA as MDCA
    from lightning_losses.losses.confidence.mmce import MMCE as MMCE
    from lightning_losses.losses.confidence.mmce_weighted import MMCEWeighted as MMCEWeighted
    from lightning_losses.losses.confidence.rankmixup_mndcg import RankMixupMNDCG as RankMixupMNDCG
    from lightning_losses.losses.confidence.rankmixup_mrl import RankMixupMRL as RankMixupMRL
    from lightning_losses.losses.confidence.soft_avuc import SoftAvUC as SoftAvUC
    from lightning_losses.losses.confidence.soft_binned_ece import SoftBinnedECE as SoftBinnedECE
    from lightning_losses.losses.contrastive.alignment_uniformity import AlignmentUniformity as AlignmentUniformity
    from lightning_losses.losses.contrastive.amcl import AMCL as AMCL
    from lightning_losses.losses.contrastive.clip_contrastive import ClipContrastive as ClipContrastive
    from lightning_losses.losses.contrastive.energy_confusion import EnergyConfusion as EnergyConfusion
    from lightning_losses.losses.contrastive.gumbel_concept_loss import GumbelConceptLoss as GumbelConceptLoss
    from lightning_losses.losses.contrastive.hard_contrastive import HardContrastive as HardContrastive
    from lightning_losses.losses.contrastive.icnn import ICNN as ICNN
    from lightning_losses.losses.contrastive.nt_xent import NTXent as NTXent
    from lightning_losses.losses.contrastive.proto_triplet import ProtoTriplet as ProtoTriplet
    from lightning_losses.losses.contrastive.sigmoid_contrastive import SigmoidContrastive as SigmoidContrastive
    from lightning_losses.losses.contrastive.supcon import SupCon as SupCon
    from lightning_losses.losses.contrastive.tcm import TCM as TCM
    from lightning_losses.losses.contrastive.triplet import Triplet as Triplet
    from lightning_losses.losses.dependence.cs_information_bottleneck import (
        CSInformationBottleneck as CSInformationBottleneck,
    )
    from lightning_losses.losses.dependence.node_compactness import NodeCompactness as NodeCompactness
    from lightning_losses.losses.dependence.pamc import PAMC as PAMC
    from lightning_losses.losses.dependence.sae_auxk import SAEAuxK as SAEAuxK
    from lightning_losses.losses.distillation.divergences.ab_divergence import ABDivergence as ABDivergence
    from lightning_losses.losses.distillation.divergences.adaptive_alpha_divergence import (
        AdaptiveAlphaDivergence as AdaptiveAlphaDivergence,
    )
    from lightning_losses.losses.distillation.divergences.adaptive_kl import AdaptiveKL as AdaptiveKL
    from lightning_losses.losses.distillation.divergences.bdkd import BDKD as BDKD
    from lightning_losses.losses.distillation.divergences.binary_kl import BinaryKL as BinaryKL
    from lightning_losses.losses.distillation.divergences.binary_kl_norm import BinaryKLNorm as BinaryKLNorm
    from lightning_losses.losses.distillation.divergences.forward_kl import ForwardKL as ForwardKL
    from lightning_losses.losses.distillation.divergences.generalized_jsd import GeneralizedJSD as GeneralizedJSD
    from lightning_losses.losses.distillation.divergences.kd import KD as KD
    from lightning_losses.losses.distillation.divergences.kl_top import KLTop as KLTop
    from lightning_losses.losses.distillation.divergences.reverse_kl import ReverseKL as ReverseKL
    from lightning_losses.losses.distillation.divergences.skew_kl import SkewKL as SkewKL
    from lightning_losses.losses.distillation.divergences.skew_rkl import SkewRKL as SkewRKL
    from lightning_losses.losses.distillation.divergences.symmetric_kl import SymmetricKL as SymmetricKL
    from lightning_losses.losses.distillation.divergences.total_variation import TotalVariation as TotalVariation
    from lightning_losses.losses.distillation.features.attention_transfer import AttentionTransfer as AttentionTransfer
    from lightning_losses.losses.distillation.features.cka import CKA as CKA
    from lightning_losses.losses.distillation.features.crd import CRD as CRD
    from lightning_losses.losses.distillation.features.fitnet_hint import FitNetHint as FitNetHint
    from lightning_losses.losses.distillation.features.mi_alpha import MIAlpha as MIAlpha
    from lightning_losses.losses.distillation.features.nd_loss import NDLoss as NDLoss
    from lightning_losses.losses.distillation.features.ofa_stages import OFAStages as OFAStages
    from lightning_losses.losses.distillation.features.rkd import RKD as RKD
    from lightning_losses.losses.distillation.features.similarity_preserving import (
        SimilarityPreserving as SimilarityPreserving,
    )
    from lightning_losses.losses.distillation.logits.aligned_vocabulary import AlignedVocabulary as AlignedVocabulary
    from lightning_losses.losses.distillation.logits.class_relation_kd import ClassRelationKD as ClassRelationKD
    from lightning_losses.losses.distillation.logits.dac_kl import DACKL as DACKL
    from lightning_losses.losses.distillation.logits.deit_distill import DeiTDistill as DeiTDistill
    from lightning_losses.losses.distillation.logits.dkd import DKD as DKD
    from lightning_losses.losses.distillation.logits.gpg import GPG as GPG
    from lightning_losses.losses.distillation.logits.group_kd import GroupKD as GroupKD
    from lightning_losses.losses.distillation.logits.logit_std_kd import LogitStdKD as LogitStdKD
    from lightning_losses.losses.distillation.logits.mcmi import MCMI as MCMI
    from lightning_losses.losses.distillation.logits.mtard_balance import MTARDBalance as MTARDBalance
    from lightning_losses.losses.distillation.logits.multi_aspect_kd import MultiAspectKD as MultiAspectKD
    from lightning_losses.losses.distillation.logits.nkd import NKD as NKD
    from lightning_losses.losses.distillation.logits.ofa_kd import OFAKD as OFAKD
    from lightning_losses.losses.distillation.logits.sinkd import SinKD as SinKD
    from lightning_losses.losses.distillation.logits.span_correlation import SpanCorrelation as SpanCorrelation
    from lightning_losses.losses.distillation.logits.tgeo_kd import TGeoKD as TGeoKD
    from lightning_losses.losses.distillation.self_taught.pskd import PSKD as PSKD
    from lightning_losses.losses.distillation.self_taught.self_distill_gt import SelfDistillGT as SelfDistillGT
    from lightning_losses.losses.distillation.self_taught.uskd import USKD as USKD
    from lightning_losses.losses.domains.coral import CORAL as CORAL
    from lightning_losses.losses.domains.dann import DANN as DANN
    from lightning_losses.losses.domains.fishr import Fishr as Fishr
    from lightning_losses.losses.domains.irm_v1 import IRMv1 as IRMv1
    from lightning_losses.losses.domains.mmd import MMD as MMD
    from lightning_losses.losses.domains.vrex import VREx as VREx
    from lightning_losses.losses.imbalance.aggregate_loss import AggregateLoss as AggregateLoss
    from lightning_losses.losses.imbalance.anyloss import AnyLoss as AnyLoss
    from lightning_losses.losses.imbalance.balanced_softmax import BalancedSoftmax as BalancedSoftmax
    from lightning_losses.losses.imbalance.class_balanced import ClassBalanced as ClassBalanced
    from lightning_losses.losses.imbalance.dro_instance_reweighting import (
        DROInstanceReweighting as DROInstanceReweighting,
    )
    from lightning_losses.losses.imbalance.ensloss import EnsLoss as EnsLoss
    from lightning_losses.losses.imbalance.group_dro import GroupDRO as GroupDRO
    from lightning_losses.losses.imbalance.ldam import LDAM as LDAM
    from lightning_losses.losses.imbalance.logit_adjustment import LogitAdjustment as LogitAdjustment
    from lightning_losses.losses.language.attention_entropy_regularizer import (
        AttentionEntropyRegularizer as AttentionEntropyRegularizer,
    )
    from lightning_losses.losses.language.emo import EMO as EMO
    from lightning_losses.losses.language.noisefit import NoiseFiT as NoiseFiT
    from lightning_losses.losses.margins.arcface import ArcFace as ArcFace
    from lightning_losses.losses.margins.cosface import CosFace as CosFace
    from lightning_losses.losses.margins.ebv import EBV as EBV
    from lightning_losses.losses.margins.hyp_ce import HypCE as HypCE
    from lightning_losses.losses.margins.hyp_pc import HypPC as HypPC
    from lightning_losses.losses.margins.madacos import MadaCos as MadaCos
    from lightning_losses.losses.margins.normalized_softmax import NormalizedSoftmax as NormalizedSoftmax
    from lightning_losses.losses.margins.unpg import UNPG as UNPG
    from lightning_losses.losses.mixture_of_experts.load_balancing import LoadBalancing as LoadBalancing
    from lightning_losses.losses.mixture_of_experts.router_z_loss import RouterZLoss as RouterZLoss
    from lightning_losses.losses.multi_label.asymmetric import Asymmetric as Asymmetric
    from lightning_losses.losses.multi_label.hill import Hill as Hill
    from lightning_losses.losses.multi_label.hybrid_multilabel import HybridMultilabel as HybridMultilabel
    from lightning_losses.losses.multi_label.multi_focal_modifier import MultiFocalModifier as MultiFocalModifier
    from lightning_losses.losses.multi_label.multi_grained_focal import MultiGrainedFocal as MultiGrainedFocal
    from lightning_losses.losses.multi_label.reflective_label_corrector import (
        ReflectiveLabelCorrector as ReflectiveLabelCorrector,
    )
    from lightning_losses.losses.noisy_labels.agce import AGCE as AGCE
    from lightning_losses.losses.noisy_labels.aldr_kl import ALDRKL as ALDRKL
    from lightning_losses.losses.noisy_labels.aul import AUL as AUL
    from lightning_losses.losses.noisy_labels.bi_tempered import BiTempered as BiTempered
    from lightning_losses.losses.noisy_labels.elr import ELR as ELR
    from lightning_losses.losses.noisy_labels.gce import GCE as GCE
    from lightning_losses.losses.noisy_labels.gjs import GJS as GJS
    from lightning_losses.losses.noisy_labels.mae_reduced import MAEReduced as MAEReduced
    from lightning_losses.losses.noisy_labels.nce import NCE as NCE
    from lightning_losses.losses.noisy_labels.nce_agce import NCEAndAGCE as NCEAndAGCE
    from lightning_losses.losses.noisy_labels.nce_rce import NCEAndRCE as NCEAndRCE
    from lightning_losses.losses.noisy_labels.ngce import NGCE as NGCE
    from lightning_losses.losses.noisy_labels.rce import RCE as RCE
    from lightning_losses.losses.noisy_labels.sce import SCE as SCE
    from lightning_losses.losses.noisy_labels.truncated_gce import TruncatedGCE as TruncatedGCE
    from lightning_losses.losses.policy_gradient.cispo import CISPO as CISPO
    from lightning_losses.losses.policy_gradient.gmpo import GMPO as GMPO
    from lightning_losses.losses.policy_gradient.grpo import GRPO as GRPO
    from lightning_losses.losses.policy_gradient.gspo import GSPO as GSPO
    from lightning_losses.losses.policy_gradient.luspo import LUSPO as LUSPO
    from lightning_losses.losses.policy_gradient.ppo_clip import PPOClip as PPOClip
    from lightning_losses.losses.policy_gradient.ppo_value_loss import PPOValueLoss as PPOValueLoss
    from lightning_losses.losses.policy_gradient.rloo import RLOO as RLOO
    from lightning_losses.losses.policy_gradient.sapo import SAPO as SAPO
    from lightning_losses.losses.policy_gradient.vespo import VESPO as VESPO
    from lightning_losses.losses.preference.aot import AOT as AOT
    from lightning_losses.losses.preference.apo_down import APODown as APODown
    from lightning_losses.losses.preference.apo_zero import APOZero as APOZero
    from lightning_losses.losses.preference.bco_pair import BCOPair as BCOPair
    from lightning_losses.losses.preference.completion_nll import CompletionNLL as CompletionNLL
    from lightning_losses.losses.preference.cpo import CPO as CPO
    from lightning_losses.losses.preference.d2o import D2O as D2O
    from lightning_losses.losses.preference.discopop import DiscoPOP as DiscoPOP
    from lightning_losses.losses.preference.dpo import DPO as DPO
    from lightning_losses.losses.preference.dpo_norm import DPONorm as DPONorm
    from lightning_losses.losses.preference.exo_pair import EXOPair as EXOPair
    from lightning_losses.losses.preference.f_dpo import FDPO as FDPO
    from lightning_losses.losses.preference.hinge_dpo import HingeDPO as HingeDPO
    from lightning_losses.losses.preference.hypo import HyPO as HyPO
    from lightning_losses.losses.preference.inpo import INPO as INPO
    from lightning_losses.losses.preference.ipo import IPO as IPO
    from lightning_losses.losses.preference.nca_pair import NCAPair as NCAPair
    from lightning_losses.losses.preference.orpo import ORPO as ORPO
    from lightning_losses.losses.preference.preference_formula import PreferenceFormula as PreferenceFormula
    from lightning_losses.losses.preference.robust_dpo import RobustDPO as RobustDPO
    from lightning_losses.losses.preference.simpo import SimPO as SimPO
    from lightning_losses.losses.preference.sppo_hard import SPPOHard as SPPOHard
    from lightning_losses.losses.regression.beta_nll import BetaNLL as BetaNLL
    from lightning_losses.losses.regression.crps_ensemble import CRPSEnsemble as CRPSEnsemble
    from lightning_losses.losses.regression.crps_gaussian import CRPSGaussian as CRPSGaussian
    from lightning_losses.losses.regression.energy_score import EnergyScore as EnergyScore
    from lightning_losses.losses.regression.evidential_regression import EvidentialRegression as EvidentialRegression
    from lightning_losses.losses.regression.gaussian_nll import GaussianNLL as GaussianNLL
    from lightning_losses.losses.regression.hl_gauss import HLGauss as HLGauss
    from lightning_losses.losses.regression.pinball import Pinball as Pinball
    from lightning_losses.losses.regression.two_hot import TwoHot as TwoHot
    from lightning_losses.losses.regularization.concept_l1 import ConceptL1 as ConceptL1
    from lightning_losses.losses.regularization.margin_log_penalty import MarginLogPenalty as MarginLogPenalty
    from lightning_losses.losses.regularization.mesa import MESA as MESA
    from lightning_losses.losses.regularization.rdrop import RDrop as RDrop
    from lightning_losses.losses.regularization.saf import SAF as SAF
    from lightning_losses.losses.regularization.soft_entropy_regularization import (
        SoftEntropyRegularization as SoftEntropyRegularization,
    )
    from lightning_losses.losses.regularization.wdr_loss import WDR as WDR
    from lightning_losses.losses.regularization.z_loss import ZLoss as ZLoss
    from lightning_losses.losses.retrieval.decoupled_softmax import DecoupledSoftmax as DecoupledSoftmax
    from lightning_losses.losses.retrieval.maxsim import MaxSim as MaxSim
    from lightning_losses.losses.retrieval.multilabel_infonce import MultilabelInfoNCE as MultilabelInfoNCE
    from lightning_losses.losses.retrieval.mw_loss import MWLoss as MWLoss
    from lightning_losses.losses.retrieval.soft_topk_loss import SoftTopKLoss as SoftTopKLoss
    from lightning_losses.losses.retrieval.triplet_ohnm import TripletOHNM as TripletOHNM
    from lightning_losses.losses.robustness.adaptive_smoothing_loss import (
        AdaptiveSmoothingLoss as AdaptiveSmoothingLoss,
    )
    from lightning_losses.losses.robustness.mart import MART as MART
    from lightning_losses.losses.robustness.smooth_adversarial_comp_sum import (
        SmoothAdversarialCompSum as SmoothAdversarialCompSum,
    )
    from lightning_losses.losses.robustness.trades import TRADES as TRADES
    from lightning_losses.losses.self_supervised.barlow_twins import BarlowTwins as BarlowTwins
    from lightning_losses.losses.self_supervised.dino_loss import DINOLoss as DINOLoss
    from lightning_losses.losses.self_supervised.glocal_alignment import GlocalAlignment as GlocalAlignment
    from lightning_losses.losses.self_supervised.mixed_barlow_twins import MixedBarlowTwins as MixedBarlowTwins
    from lightning_losses.losses.self_supervised.negative_cosine import NegativeCosine as NegativeCosine
    from lightning_losses.losses.self_supervised.vicreg import VICReg as VICReg
    from lightning_losses.losses.self_supervised.wasserstein_predictive_coding import (
        WassersteinPredictiveCoding as WassersteinPredictiveCoding,
    )
    from lightning_losses.losses.self_training.rmt_symmetric_cross_entropy import (
        RMTSymmetricCrossEntropy as RMTSymmetricCrossEntropy,
    )
    from lightning_losses.losses.self_training.selective_pseudo_label import (
        SelectivePseudoLabel as SelectivePseudoLabel,
    )
    from lightning_losses.losses.self_training.soft_likelihood_ratio import SoftLikelihoodRatio as SoftLikelihoodRatio
    from lightning_losses.losses.self_training.softmax_entropy import SoftmaxEntropy as SoftmaxEntropy
    from lightning_losses.losses.unlearning.contrastive_entropy_ood import (
        ContrastiveEntropyOOD as ContrastiveEntropyOOD,
    )
    from lightning_losses.losses.unlearning.flat_unlearning import FlatUnlearning as FlatUnlearning
    from lightning_losses.losses.unlearning.gradient_ascent import GradientAscent as GradientAscent
    from lightning_losses.losses.unlearning.idk import IDK as IDK
    from lightning_losses.losses.unlearning.npo import NPO as NPO
    from lightning_losses.losses.unlearning.retain_nll import RetainNLL as RetainNLL
    from lightning_losses.losses.unlearning.satimp import SatImp as SatImp
    from lightning_losses.losses.unlearning.simnpo import SimNPO as SimNPO
    from lightning_losses.losses.unlearning.undial import UnDIAL as UnDIAL
    from lightning_losses.losses.unlearning.wga import WGA as WGA
else:

    def __getattr__(name: str) -> Any:
        if name in exports(__file__):
            return lazily(__name__, __file__, name)
        if not name.startswith("_"):
            from lightning_losses.losses.registered import registered_losses

            for loss in registered_losses().values():
                if loss.__name__ == name:
                    return loss
        offered = ", ".join(sorted(exports(__file__)))
        raise AttributeError(f"module {__name__!r} has no loss {name!r}; it has {offered}.")


def __dir__() -> list[str]:
    return sorted([*globals(), *exports(__file__)])


def loss_classes() -> "list[type[Loss]]":
    """Every loss that the library offers, sorted by family and id."""
    classes = {lazily(__name__, __file__, name) for name in exports(__file__).keys() - {"Loss"}}
    return sorted(classes, key=lambda loss: (loss.__module__, loss.__name__))
