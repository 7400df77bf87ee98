"""The backward pass of an objective with a policy, in a loop of your own."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_losses.balancing.base import Balancing, GradientBalancing, Step
from lightning_losses.balancing.term_gradients import TermGradients
from lightning_losses.objective.objective import Objective, ObjectiveValue
from lightning_losses.optim.selection import select_parameters


def balanced_backward(objective: Objective, network: nn.Module, **tensors: Any) -> ObjectiveValue:
    """Evaluate an objective, and add its balanced gradients to the parameters' ``.grad``: one step of its policy.

    For one batch a step, on one process; `ObjectiveMixin` does the same for several of both. The policy compares the
    gradients of the network's parameters.

    Args:
        objective: with a policy of `lightning_losses.balancing`.
        network: whose outputs the tensors are.
        **tensors: the step's, under their glossary names.

    Returns:
        What the objective's call returns.

    Raises:
        ValueError: an objective without a policy; patterns of shared parameters that match none.

    Example:
        >>> from lightning_losses import CrossEntropy, MbLS
        >>> from lightning_losses.balancing import PCGrad
        >>> network = nn.Linear(4, 3)
        >>> objective = Objective({"ce": CrossEntropy(), "mbls": MbLS()}, balancing=PCGrad())
        >>> value = balanced_backward(objective, network, logits=network(torch.ones(2, 4)), target=torch.tensor([0, 1]))
        >>> network.weight.grad.shape
        torch.Size([3, 4])
    """
    policy = objective.balancing
    if policy is None:
        raise ValueError("balanced_backward: an objective without balancing= came; call backward on its total.")
    seen: list[Tensor] = []

    def weights(policy: Balancing, losses: Tensor) -> Tensor | None:
        seen.append(losses)
        return None if policy.reads == "gradients" else policy.weights(losses)

    value = objective(balance=weights, **tensors)
    if not seen:
        raise ValueError("balanced_backward: the objective is in evaluation mode; call objective.train() first.")
    if policy.reads != "gradients" and not policy.watches_gradients:
        value.total.backward()
        policy.update(Step(seen[0]))
        return value
    trained = select_parameters(policy.name, network.named_parameters())
    patterns = policy.shared_patterns()
    shared = None if patterns is None else select_parameters(policy.name, trained.items(), patterns)
    rows = TermGradients(policy.name, trained, len(seen[0]), shared)
    rows.add(list(value.shares.values()), torch.ones(()), None)
    value.total.backward()
    gram = rows.gram()
    if gram.isfinite().all():
        if isinstance(policy, GradientBalancing):
            combined = policy.combined(gram, ~seen[0].isnan().cpu())
            rows.add_to_gradients(combined, policy.head_weights())
        policy.update(Step(seen[0], gram.diagonal().clamp(min=0).sqrt().to(seen[0])))
    return value
