"""A network of timm."""

import difflib
from typing import Any

from torch import nn

from lightning_losses.environment.extras import require
from lightning_losses.networks.weights import load_weights
from lightning_losses.numerics.checks import check_count, check_number


def timm_network(name: str, num_classes: int, in_chans: int = 3, **options: Any) -> nn.Module:
    """A timm network with random initial weights.

    Args:
        name: a name in `timm.list_models()`.
        num_classes: the number of classes of its head.
        in_chans: the channels of the images.
        **options: passed to `timm.create_model`; lists become tuples, as timm expects.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: a name that timm does not know; no number of classes or channels; `pretrained_cfg`, which could
            name a file to unpickle.

    Example:
        >>> import torch
        >>> timm_network("test_resnet", num_classes=10, in_chans=1)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    # For timm None means the original number of classes; 0 makes a network without a head.
    check_number("timm_network", "num_classes", num_classes, least=0)
    check_count("timm_network", "in_chans", in_chans)
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return create_network("timm_network", name, num_classes, in_chans=in_chans, **plain)


def create_network(caller: str, name: str, num_classes: int, **options: Any) -> nn.Module:
    """A network of `timm.create_model`, by default not pretrained; a checkpoint is read without unpickling.

    Args:
        caller: the name that errors begin with.
        name: a name in `timm.list_models()`.
        num_classes: the number of classes of its head.
        **options: passed to `timm.create_model`.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: a name that timm does not know, with the nearest; `pretrained_cfg`, which could name a file to
            unpickle.
    """
    require(caller, "timm")
    import timm

    if name.split(".")[0] not in timm.list_models():
        near = difflib.get_close_matches(name, timm.list_models(), n=5)
        raise ValueError(
            f"{caller}: timm has no model '{name}'; "
            + (f"near it are {', '.join(near)}." if near else "timm.list_models() lists them.")
        )
    if other := sorted(option for option in options if option.startswith("pretrained_cfg")):
        raise ValueError(
            f"{caller}: {other[0]} came, with which timm may unpickle a file; give the weights as checkpoint_path."
        )
    # Read here, because some versions of timm would unpickle it.
    checkpoint = options.pop("checkpoint_path", None)
    network: nn.Module = timm.create_model(name, num_classes=num_classes, **{"pretrained": False, **options})
    return network if not checkpoint else load_weights(checkpoint, network)
