"""Teachers from a checkpoint."""

from pathlib import Path

from torch import nn

from lightning_losses.networks.weights import load_weights


def checkpoint_teacher(path: str | Path, network: nn.Module, prefix: str = "network.") -> nn.Module:
    """Load the weights of a Lightning checkpoint, a state dict or a safetensors file into a network.

    Args:
        path: a `.ckpt`, `.pt` or `.safetensors` file.
        network: the network whose weights the file holds.
        prefix: the attribute of the LightningModule that held the network; a file without this prefix is loaded whole.

    Raises:
        ValueError: a file that needs unpickling, or weights that don't fit the network; the message names the prefixes
            that fit, or all of them.
    """
    return load_weights(path, network, prefix)
