"""The repeated blocks of a network: found by class or by size, recomputed in the backward pass, compiled."""

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
    """The parts of a network that are sharded, recomputed or compiled each by itself; none holds another.

    Args:
        network: whose parts are looked at; it is no block itself.
        names: the class names of blocks, such as ``["Block"]``; None takes the members of its `nn.Sequential` and
            `nn.ModuleList` that have `min_parameters` or more.
        min_parameters: see `names`; at least 1.

    Returns:
        The outermost of them, in the order of the network's modules; by size there may be none.

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
        # FSDP2 puts a class of its own before the module's.
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
        # A list has no forward pass of its own: its members may be blocks.
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
    """Keep a block's input alone in training, and compute its activations again in the backward pass.

    Values and gradients stay as they were; dropout draws the same, and batch normalisation counts each batch once.

    Args:
        block: changed in place; its parameters keep their names.
    """
    normalised = [part for part in block.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _uncounted(normalised)

    options = {"context_fn": contexts} if normalised else {}
    block.forward = partial(checkpoint, block.forward, use_reentrant=False, **options)


def compile_forward(block: nn.Module, backend: str = "inductor") -> None:
    """Compile a block's forward pass by `torch.compile`; hooks on the block stay outside.

    Args:
        block: changed in place; its parameters keep their names.
        backend: of `torch.compile`.

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
    """Raise ``ValueError`` where inductor, torch's usual backend, would lack what it compiles by."""
    if cuda and importlib.util.find_spec("triton") is None:
        raise ValueError(
            "compile: backend='inductor' came, which needs Triton on a GPU; pip install triton, or give null."
        )
    # As torch and Triton look for it.
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
    """How the blocks of a network are run in training.

    Args:
        blocks: the class names of the blocks; None finds them by size. A network without blocks is one.
        activation_checkpointing: True computes activations again in the backward pass in place of keeping them.
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
        """Raise ``ValueError`` for what `prepare` would refuse, or the first step, and change nothing.

        Args:
            network: what would be prepared.
            cuda: whether it will be on a GPU of Nvidia's or AMD's.
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


@contextmanager
def _uncounted(normalised: Sequence[_BatchNorm]) -> Iterator[None]:
    """Batch normalisation by the batch's statistics as ever, without a second update of the running ones."""
    before = [(part.momentum, part.num_batches_tracked.clone()) for part in normalised]  # type: ignore[union-attr]
    for part in normalised:
        part.momentum = 0.0
    try:
        yield
    finally:
        # The recomputation may stop early: what was counted again is not the same for all.
        for part, (momentum, count) in zip(normalised, before, strict=True):
            part.momentum = momentum
            part.num_batches_tracked.copy_(count)  # type: ignore[union-attr]
