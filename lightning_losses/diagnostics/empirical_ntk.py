"""The neural tangent kernel of a finite network, from the gradients of its outputs."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from lightning_losses.numerics.probabilities import full_precision


def output_jacobians(
    network: nn.Module, inputs: Float[Tensor, "samples ..."]
) -> Float[Tensor, "samples outputs parameters"]:
    """The flat gradient of every output of every sample with respect to all trainable parameters.

    Example:
        >>> output_jacobians(nn.Linear(3, 2), torch.ones(4, 3)).shape
        torch.Size([4, 2, 8])
    """
    trained = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError(f"output_jacobians: {type(network).__name__} has no parameter that requires a gradient.")

    def outputs(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        found: Tensor = functional_call(network, parameters, (sample.unsqueeze(0),))
        return found.squeeze(0)

    rows = vmap(jacrev(outputs), (None, 0))(trained, inputs)
    return torch.cat([row.flatten(2) for row in rows.values()], dim=2)


def empirical_ntk(network: nn.Module, inputs: Float[Tensor, "samples ..."]) -> Float[Tensor, "samples c samples c"]:
    """``Θ[i, c, j, d] = <∂f_c(x_i)/∂w, ∂f_d(x_j)/∂w>``.

    It stores n times C gradients; use it on a few hundred samples. The network is evaluated in its present mode, sample
    by sample: batch normalisation must be in evaluation mode.

    Source:
        Jacot, Gabriel, Hongler, 2018, "Neural Tangent Kernel", arXiv:1806.07572.

    Example:
        >>> empirical_ntk(nn.Linear(3, 1, bias=False), torch.eye(3)).squeeze()
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    jacobians = full_precision(output_jacobians(network, inputs))
    return torch.einsum("icp,jdp->icjd", jacobians, jacobians)


def trace_ntk(network: nn.Module, inputs: Float[Tensor, "samples ..."]) -> Float[Tensor, "samples samples"]:
    """The kernel summed over equal outputs, ``Σ_c Θ[i, c, j, c]``; not divided by their number.

    Example:
        >>> trace_ntk(nn.Linear(3, 2, bias=False), torch.eye(3)).diagonal()
        tensor([2., 2., 2.])
    """
    flat = full_precision(output_jacobians(network, inputs)).flatten(1)
    return flat @ flat.T
