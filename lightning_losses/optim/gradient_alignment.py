"""Gradient alignment: removes the component of an auxiliary gradient that opposes the main gradient."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.parallel.sharding import wide_type


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
    pairs = [(full_precision(a), full_precision(b)) for a, b in zip(main, auxiliary, strict=True)]
    # Squares of small and of large gradients are no numbers of their type.
    length = torch.stack([torch.linalg.vector_norm(a, dtype=wide_type(a)) for a, _ in pairs]).norm()
    # If the main gradient is 0, so is the inner product, and nothing is removed.
    length = torch.where(length > 0, length, 1.0)
    inner = torch.stack([(a / length.to(a.dtype) * b).sum() for a, b in pairs]).sum()
    against = inner.clamp(max=0) / length
    return [(a + b - against * a).to(given.dtype) for (a, b), given in zip(pairs, main, strict=True)]
