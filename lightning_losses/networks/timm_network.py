"""A network of timm's, built without weights."""

from typing import Any

from torch import nn

from lightning_losses.teacher import timm_teacher


def timm_network(name: str, num_classes: int, in_chans: int = 3, **options: Any) -> nn.Module:
    """A network that timm knows, with its first weights random.

    Args:
        name: a name that `timm.list_models()` lists.
        num_classes: the number of classes of its head.
        in_chans: the channels of the images.
        **options: handed to `timm.create_model`; lists become tuples, as timm expects.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: a name that timm does not know.

    Example:
        >>> import torch
        >>> timm_network("test_resnet", num_classes=10, in_chans=1)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return timm_teacher(name, num_classes, in_chans=in_chans, **plain)
