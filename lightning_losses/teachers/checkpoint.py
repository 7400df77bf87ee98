"""Teachers from a checkpoint."""

from pathlib import Path

from torch import nn

from lightning_losses.networks.weights import load_weights


def checkpoint_teacher(path: str | Path, network: nn.Module, prefix: str = "network.") -> nn.Module:
    """Load the weights of a Lightning checkpoint, a state dict or a safetensors file into a network.

    Args:
        path: a `.ckpt`, `.pt` or `.safetensors` file.
        network: the network whose weights the file holds.
        prefix: the attribute under which the LightningModule held the network; a file without it is taken whole.

    Raises:
        ValueError: a file that needs unpickling, or weights that don't fit the network; the message has the prefixes
            that fit, or those that there are.
    """
    return load_weights(path, network, prefix)
