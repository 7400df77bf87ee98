"""All mistakes."""

from tests.mutants import calibrators, distillation, heads, losses, metrics, mixins, noisy_labels, runs

MISTAKES = [
    mistake
    for part in (losses, noisy_labels, distillation, heads, calibrators, metrics, mixins, runs)
    for mistake in part.MISTAKES
]
