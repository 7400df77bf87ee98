"""Gradient alignment: removes the component of an auxiliary gradient that opposes the main gradient."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def aligned_gradients(
    main: Sequence[Float[Tensor, "..."]], auxiliary: Sequence[Float[Tensor, "..."]]
) -> list[Float[Tensor, "..."]]:
    """``main + auxiliary``, without the auxiliary gradient's component that opposes the main one.

    The two are taken as one vector over all tensors: if their inner product is negative, the auxiliary one is projected
    onto the orthogonal complement of the main one. The main gradient is not changed.

    Args:
        main: the gradient of the main loss for each parameter; zeros if the loss doesn't depend on it.
        auxiliary: the gradient of the auxiliary loss for the same parameters.

    Returns:
        The combined gradient for each parameter. Under DDP call it after the gradients are averaged; then it is equal
        on all processes. Sharded parameters are not supported, because their inner products would be partial.

    Raises:
        ValueError: gradients whose number or shapes differ.

    Source:
        Yang, Zong, Huang, Feng, An, 2024, "Dual-Head Knowledge Distillation: Enhancing Logits Utilization with an
        Auxiliary Head", arXiv:2411.08937, and its code penghui-yang/DHKD; one side of PCGrad (Yu, Kumar, Gupta, Levine,
        Hausman, Finn, 2020, arXiv:2001.06782).

    Example:
        >>> aligned_gradients([torch.tensor([1.0, 0.0])], [torch.tensor([-2.0, 3.0])])
        [tensor([1., 3.])]
    """
    if [g.shape for g in main] != [g.shape for g in auxiliary]:
        raise ValueError(
            f"gradient_alignment: auxiliary gradients of shapes {[list(g.shape) for g in auxiliary]} came with main "
            f"ones of shapes {[list(g.shape) for g in main]}; give both for the same parameters."
        )
    if not main:
        return []
    inner = torch.stack([(a * b).sum() for a, b in zip(main, auxiliary, strict=True)]).sum()
    squared = torch.stack([a.square().sum() for a in main]).sum()
    # If the main gradient is 0, so is the inner product, and nothing is removed.
    against = inner.clamp(max=0) / torch.where(squared > 0, squared, 1.0)
    return [a + b - against * a for a, b in zip(main, auxiliary, strict=True)]
