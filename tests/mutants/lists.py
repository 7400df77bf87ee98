"""All mistakes."""

from tests.mutants import calibrators, distillation, heads, losses, metrics, mixins, runs

MISTAKES = [
    mistake for part in (losses, distillation, heads, calibrators, metrics, mixins, runs) for mistake in part.MISTAKES
]
