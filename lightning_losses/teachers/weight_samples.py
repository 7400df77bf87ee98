"""One network at several weights, as an ensemble of copies."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from lightning_losses.data.loading import named
from lightning_losses.teachers.ensemble import Average, TeacherEnsemble

Weights = Mapping[str, Tensor]


def weight_ensemble(
    who: str,
    network: nn.Module,
    weights: Iterable[Weights],
    batches: Iterable[Any] | None = None,
    average: Average = "probabilities",
) -> TeacherEnsemble:
    """Copies of a network at several weights, whose outputs are averaged; gradients reach its inputs.

    Args:
        who: the name that errors begin with.
        network: gives everything that the weights don't name; it stays as it is.
        weights: tensors by the network's own names, of parameters and, if there are any, buffers.
        batches: of training, from which BatchNorm's running statistics are computed anew for each copy, in one pass
            each; None keeps what the weights say of them, or the network.
        average: whether the mean is over "probabilities" or over "logits", as regressions want.

    Raises:
        ValueError: no weights, or some of another network, or no finite numbers; no batch.
    """
    members = [network_with(who, network, sample) for sample in weights]
    if not members:
        raise ValueError(f"{who}: no weights were collected; train on, or begin to collect earlier.")
    if batches is not None:
        held = list(batches)
        if not held:
            raise ValueError(f"{who}: batches= came without a batch; give batches of training for BatchNorm.")
        on_device = {weight.device for weight in network.parameters() if weight.is_cuda}
        # Dropout draws in these passes, as it does in training; alike for every copy, and none of the run's numbers.
        for member in members:
            with torch.random.fork_rng(devices=[*on_device]):
                # By themselves: torch.manual_seed would begin those of other devices anew, too.
                torch.default_generator.manual_seed(0)
                for device in on_device:
                    torch.cuda.default_generators[device.index].manual_seed(0)
                update_bn((named(who, batch)["inputs"] for batch in held), member)
    return TeacherEnsemble(members, average=average).eval().requires_grad_(False)


def network_with(who: str, network: nn.Module, weights: Weights) -> nn.Module:
    """A copy of a network with other weights.

    Raises:
        ValueError: weights of another network, or that are no finite numbers.

    Example:
        >>> network_with("doc", nn.Linear(1, 1, bias=False), {"weight": torch.tensor([[2.0]])})(torch.ones(1, 1)).item()
        2.0
    """
    twin, own = copy.deepcopy(network), network.state_dict(keep_vars=True)
    wrong = [name for name, value in weights.items() if name not in own or own[name].shape != value.shape]
    if wrong:
        raise ValueError(f"{who}: {type(network).__name__} has no {wrong[0]} of this shape; give the network trained.")
    trained = {name for name, _ in network.named_parameters()}
    broken = [name for name, value in weights.items() if name in trained and not value.isfinite().all()]
    if broken:
        raise ValueError(f"{who}: {broken[0]} is not finite in the weights collected; lower the learning rate.")
    twin.load_state_dict({name: value.to(own[name]) for name, value in weights.items()}, strict=False)
    return twin.eval()


def has_batch_norm(network: nn.Module) -> bool:
    """Whether some layer keeps running statistics of its inputs."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in network.modules())


def submodule(who: str, module: nn.Module, name: str) -> nn.Module:
    """A part of a module by its name; the module itself for an empty one.

    Raises:
        ValueError: no such part.
    """
    try:
        return module.get_submodule(name)
    except AttributeError:
        parts = ", ".join(repr(part) for part, _ in module.named_children())
        raise ValueError(f"{who}: part={name!r} came; the module's parts are {parts or 'none'}.") from None
