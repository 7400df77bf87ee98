"""All mistakes."""

from tests.mutants import calibrators, distillation, heads, losses, margins, metrics, mixins, noisy_labels, runs

MISTAKES = [
    mistake
    for part in (losses, noisy_labels, margins, distillation, heads, calibrators, metrics, mixins, runs)
    for mistake in part.MISTAKES
]
