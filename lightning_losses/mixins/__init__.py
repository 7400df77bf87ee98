"""Mixins that decide the loss of a LightningModule."""

from lightning_losses.mixins.adversarial_training import AdversarialTrainingMixin
from lightning_losses.mixins.co_teaching import CoTeachingMixin
from lightning_losses.mixins.distillation import DistillationMixin
from lightning_losses.mixins.domain_mixup import DomainMixupMixin
from lightning_losses.mixins.ema_teacher import EMATeacherMixin
from lightning_losses.mixins.grad_cache import GradCache
from lightning_losses.mixins.language_head import LanguageHeadMixin
from lightning_losses.mixins.objective import ObjectiveMixin
from lightning_losses.mixins.on_policy_distillation import OnPolicyDistillationMixin
from lightning_losses.mixins.online_distillation import OnlineDistillationMixin
from lightning_losses.mixins.policy_gradient import PolicyGradientMixin
from lightning_losses.mixins.preference import PreferenceMixin
from lightning_losses.mixins.self_distillation import SelfDistillationMixin
from lightning_losses.mixins.token_records import TokenRecordsMixin
from lightning_losses.mixins.two_views import TwoViews
from lightning_losses.mixins.unlearning import UnlearningMixin

__all__ = [
    "AdversarialTrainingMixin",
    "CoTeachingMixin",
    "DistillationMixin",
    "DomainMixupMixin",
    "EMATeacherMixin",
    "GradCache",
    "LanguageHeadMixin",
    "ObjectiveMixin",
    "OnPolicyDistillationMixin",
    "OnlineDistillationMixin",
    "PolicyGradientMixin",
    "PreferenceMixin",
    "SelfDistillationMixin",
    "TokenRecordsMixin",
    "TwoViews",
    "UnlearningMixin",
]
