"""Weight decay of matrices only, for any optimizer with parameter groups."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from lightning_losses.numerics.checks import check_number


def decay_matrices(parameters: Iterable[nn.Parameter], *, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups in which tensors of two or more dimensions decay, but biases and gains don't.

    Args:
        parameters: the parameters to train.
        weight_decay: at least 0; with 1.0 to 1.5 and AdamW, transformers grok modular arithmetic.

    Raises:
        ValueError: a negative weight_decay.

    Source:
        Decoupled decay: Loshchilov, Hutter, 2019, "Decoupled Weight Decay Regularization", arXiv:1711.05101. Its
        role in grokking: Power et al., 2022, arXiv:2201.02177.

    Example:
        >>> [len(group["params"]) for group in decay_matrices(nn.Linear(2, 2).parameters(), weight_decay=1.0)]
        [1, 1]
    """
    check_number("decay_matrices", "weight_decay", weight_decay, least=0)
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
