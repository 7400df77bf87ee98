"""Sources of teachers: timm, a checkpoint, an ensemble, the student itself, a cache of outputs."""

from lightning_losses.teachers.cached_logits import CachedLogits as CachedLogits
from lightning_losses.teachers.checkpoint import checkpoint_teacher as checkpoint_teacher
from lightning_losses.teachers.ensemble import TeacherEnsemble as TeacherEnsemble
from lightning_losses.teachers.feature_taps import FeatureTap as FeatureTap
from lightning_losses.teachers.mapped_logits import MappedLogits as MappedLogits
from lightning_losses.teachers.mapped_logits import load_cached_teacher as load_cached_teacher
from lightning_losses.teachers.timm import timm_teacher as timm_teacher
from lightning_losses.teachers.without_adapters import WithoutAdapters as WithoutAdapters
