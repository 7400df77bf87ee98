"""The cost of a wrong learning rate."""

import math
from collections.abc import Sequence


def learning_rate_sensitivity(final_losses: Sequence[float], initial_loss: float) -> float:
    """The mean difference between the loss at each learning rate of a logarithmic grid and the lowest loss.

    ``mean(min(final, initial)) - min(final)``; a run that diverged counts as one that did not start.

    Args:
        final_losses: the final loss at each learning rate; NaN or infinity if the run diverged.
        initial_loss: the loss of the untrained network.

    Returns:
        At least 0; NaN if the untrained network's loss is not finite.

    Raises:
        ValueError: no runs.

    Source:
        Wortsman et al., 2023, "Small-scale Proxies for Large-scale Transformer Training Instabilities",
        arXiv:2309.14322.

    Example:
        >>> learning_rate_sensitivity([1.0, 2.0, float("nan")], initial_loss=3.0)
        1.0
    """
    if len(final_losses) == 0:
        raise ValueError("learning_rate_sensitivity: no losses came; give one per learning rate.")
    if not math.isfinite(initial_loss):
        return math.nan
    reached = [
        min(float(loss), float(initial_loss)) if math.isfinite(loss) else float(initial_loss) for loss in final_losses
    ]
    return sum(reached) / len(reached) - min(reached)
