"""Gradient alignment: removes from an auxiliary gradient the component against the main one."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def aligned_gradients(
    main: Sequence[Float[Tensor, "..."]], auxiliary: Sequence[Float[Tensor, "..."]]
) -> list[Float[Tensor, "..."]]:
    """``main + auxiliary``, where the auxiliary gradient loses its component against the main one.

    The two are taken as one vector over all tensors: if their inner product is negative, the auxiliary one is projected
    onto what is orthogonal to the main one. The main gradient is left as it is.

    Args:
        main: the gradient of the main loss by each parameter; zeros where it does not depend on it.
        auxiliary: the gradient of the auxiliary loss by the same parameters.

    Returns:
        The gradient to step along, by each parameter. Under DDP call it after the gradients are averaged, and it is
        the same on all processes; parameters in shards are not supported, for their inner products are partial.

    Raises:
        ValueError: gradients of other numbers or shapes.

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
    # Without a main gradient there is nothing to work against: the inner product is 0.
    against = inner.clamp(max=0) / torch.where(squared > 0, squared, 1.0)
    return [a + b - against * a for a, b in zip(main, auxiliary, strict=True)]
