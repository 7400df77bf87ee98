"""Finds the repeated blocks of a network by class or size; activation checkpointing and compilation of blocks."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from lightning_losses.numerics.checks import check_number


def blocks_of(network: nn.Module, names: Sequence[str] | None = None, min_parameters: int = 100_000) -> list[nn.Module]:
    """The parts of a network that are sharded, recomputed or compiled separately; none contains another.

    Args:
        network: the network; it is no block itself.
        names: the class names of blocks, such as ``["Block"]``; None takes the members of `nn.Sequential` and
            `nn.ModuleList` with at least `min_parameters` parameters.
        min_parameters: see `names`; at least 1.

    Returns:
        The outermost blocks, in the order of the network's modules; a search by size may find none.

    Raises:
        ValueError: a name that no part of the network has.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2)))
        >>> [type(block).__name__ for block in blocks_of(network, min_parameters=5)]
        ['Linear', 'Sequential']
    """
    check_number("blocks", "min_parameters", min_parameters, least=1)
    if names is not None and isinstance(names, str):
        raise ValueError(f"blocks: names={names!r} came; give a list of class names, such as [{names}].")
    if names is not None:
        # FSDP2 replaces the module's class by a subclass.
        present = {kind.__name__ for part in network.modules() for kind in type(part).__mro__[:3]}
        if missing := [name for name in names if name not in present]:
            classes = sorted({type(part).__name__ for part in network.modules()})
            raise ValueError(
                f"blocks: {type(network).__name__} has no {', '.join(missing)}; it consists of {', '.join(classes)}."
            )

    def chosen(parent: nn.Module, part: nn.Module) -> bool:
        if names is not None:
            return any(kind.__name__ in names for kind in type(part).__mro__[:3])
        size = sum(parameter.numel() for parameter in part.parameters())
        # A list has no forward pass, but its members may be blocks.
        runs = not isinstance(part, (nn.ModuleList, nn.ModuleDict))
        return isinstance(parent, (nn.Sequential, nn.ModuleList)) and size >= min_parameters and runs

    def walk(parent: nn.Module) -> Iterator[nn.Module]:
        for part in parent.children():
            if chosen(parent, part):
                yield part
            else:
                yield from walk(part)

    return list(dict.fromkeys(walk(network)))


def recompute_activations(block: nn.Module) -> None:
    """Keep only a block's input in training, and compute its activations again in the backward pass.

    Values and gradients don't change; dropout draws the same numbers, and batch normalisation counts each batch once.

    Args:
        block: changed in place; its parameters keep their names.
    """
    normalised = [part for part in block.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    # A partial, not a function within this one: a copy of the block then leaves its own layers uncounted.
    options = {"context_fn": partial(_contexts, normalised)} if normalised else {}
    block.forward = partial(checkpoint, block.forward, use_reentrant=False, **options)


def compile_forward(block: nn.Module, backend: str = "inductor") -> None:
    """Compile a block's forward pass with `torch.compile`; hooks on the block stay outside.

    Args:
        block: changed in place; its parameters keep their names.
        backend: backend of `torch.compile`.

    Raises:
        ValueError: a backend that torch doesn't have.
    """
    _check_backend(backend)
    block.forward = torch.compile(block.forward, backend=backend)


def _check_backend(backend: str) -> None:
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise ValueError(f"compile: backend={backend!r} came; choose one of {', '.join(sorted(known))}.")


def _check_inductor(*, cuda: bool) -> None:
    """Raise ``ValueError`` if inductor, torch's usual backend, would lack its compiler."""
    if cuda and importlib.util.find_spec("triton") is None:
        raise ValueError(
            "compile: backend='inductor' came, which needs Triton on a GPU; pip install triton, or give null."
        )
    # The same search as in torch and Triton.
    variable, usual = ("CC", ["gcc", "clang"]) if cuda else ("CXX", ["clang++" if sys.platform == "darwin" else "g++"])
    names = [os.environ[variable]] if os.environ.get(variable) else usual
    if sys.platform != "win32" and not any(map(_runs, names)):
        raise ValueError(
            f"compile: backend='inductor' came, and no compiler of {'C' if cuda else 'C++'} runs here "
            f"({' or '.join(names)}); install one, name one in {variable}, or give null."
        )


def _runs(compiler: str) -> bool:
    place = shutil.which(compiler)
    return place is not None and subprocess.run([place, "--version"], capture_output=True).returncode == 0


@dataclass(frozen=True)
class Execution:
    """The way in which a network's blocks run in training.

    Args:
        blocks: the class names of the blocks; None finds them by size. A network without blocks counts as one block.
        activation_checkpointing: True computes activations again in the backward pass instead of keeping them.
        compile: a backend of `torch.compile`, such as "inductor"; None compiles nothing.

    Example:
        >>> network = nn.Linear(4, 3)
        >>> Execution(activation_checkpointing=True).prepare(network)
        >>> network(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
    """

    blocks: Sequence[str] | None = None
    activation_checkpointing: bool = False
    compile: str | None = None

    def check(self, network: nn.Module, *, cuda: bool = False) -> None:
        """Raise ``ValueError`` for anything that `prepare` or the first step would refuse, without changes.

        Args:
            network: the network to check.
            cuda: whether it will be on an Nvidia or AMD GPU.
        """
        blocks_of(network, self.blocks)
        if self.compile is not None:
            _check_backend(self.compile)
        if self.compile == "inductor":
            _check_inductor(cuda=cuda)

    def prepare(self, network: nn.Module) -> None:
        """Change a network in place, before a strategy wraps it."""
        for block in blocks_of(network, self.blocks) or [network]:
            if self.compile is not None:
                compile_forward(block, self.compile)
            if self.activation_checkpointing:
                recompute_activations(block)


def _contexts(
    normalised: Sequence[_BatchNorm],
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _uncounted(normalised)


@contextmanager
def _uncounted(normalised: Sequence[_BatchNorm]) -> Iterator[None]:
    """Within this context batch normalisation doesn't update its running statistics a second time."""
    before = [(part.momentum, part.num_batches_tracked.clone()) for part in normalised]  # type: ignore[union-attr]
    for part in normalised:
        part.momentum = 0.0
    try:
        yield
    finally:
        # The recomputation may stop early, so not all layers were counted again.
        for part, (momentum, count) in zip(normalised, before, strict=True):
            part.momentum = momentum
            part.num_batches_tracked.copy_(count)  # type: ignore[union-attr]
