"""Teachers from timm."""

from typing import Any

from torch import nn

from lightning_losses.networks.timm_network import create_network


def timm_teacher(name: str, num_classes: int, **options: Any) -> nn.Module:
    """A timm network as teacher.

    Args:
        name: a name in `timm.list_models()`.
        num_classes: the number of classes of its head.
        **options: passed to `timm.create_model` (`in_chans`, `img_size`, `checkpoint_path`, ...); `pretrained` is False
            unless given, because pretrained weights are downloaded.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: a name that timm does not know; the message lists the nearest names.
    """
    return create_network("timm_teacher", name, num_classes, **options)
