"""Walks in C++ for CPUs with AVX-512: compiled at first use, kept for later runs, and where they are taken."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.environment.cache_folder import cache_folder
from lightning_losses.kernels.products import cpu_flags, cpu_vendor

NEEDED = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "fma")
FLAGS = (
    *("-O3", "-std=c++20", "-shared", "-fPIC", "-pthread", "-fno-math-errno"),
    *(f"-m{flag}" for flag in (*NEEDED, "avx512bf16")),
)


def unsupported(
    source: Path,
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    accum_dtype: torch.dtype | None = None,
) -> str | None:
    """Why a source's walks can't take a head on this machine; None if they can."""
    if weight.device.type != "cpu":
        return f"it runs on a CPU, not on {weight.device.type}"
    if weight.dtype not in (torch.float32, torch.bfloat16) or hidden.dtype != weight.dtype:
        return f"it takes float32 or bfloat16 for both hidden and weight, not {hidden.dtype} and {weight.dtype}"
    if accum_dtype not in (None, weight.dtype, torch.float32):
        return f"it gathers in {weight.dtype} or float32, not in {accum_dtype}"
    if not weight.is_contiguous():
        return "it takes a contiguous weight"
    missing = [flag for flag in NEEDED if flag not in cpu_flags()]
    if weight.dtype == torch.bfloat16 and "avx512_bf16" not in cpu_flags():
        missing.append("avx512_bf16")
    return f"this CPU lacks {', '.join(missing)}" if missing else load(source).missing


def outrun(dtype: torch.dtype) -> str | None:
    """Why a CPU that can run them is not known to do so faster than PyTorch's products; None if it is."""
    if cpu_vendor() != "AuthenticAMD":
        return "it was measured on AMD's CPUs alone"
    if dtype == torch.bfloat16 and "amx_bf16" in cpu_flags():
        return "this CPU's AMX multiplies bfloat16 faster"
    return None


class Library(NamedTuple):
    """The functions of a source, or why there are none."""

    functions: ctypes.CDLL | None
    missing: str | None = None


@cache
def load(source: Path) -> Library:
    """A source, compiled by what the environment's CXX names, or else g++; kept for later runs of the same source."""
    compiler = shutil.which(os.environ.get("CXX") or "g++")
    if compiler is None:
        return Library(None, "no C++ compiler was found; install g++, or name one in CXX")
    try:
        return Library(ctypes.CDLL(str(_built(source, [compiler, *FLAGS]))))
    except (OSError, subprocess.CalledProcessError) as error:
        detail = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        missing = f"{compiler} could not compile or load it ({detail[0] if detail else 'without a message'})"
        warnings.warn(f"{source.parent.name}/{source.name} is not available: {missing}.", stacklevel=2)
        return Library(None, missing)


def _built(source: Path, command: list[str]) -> Path:
    """The library as a file, in the cache if it has been built before."""

    def run(*arguments: str) -> str:
        return subprocess.run([command[0], *arguments], capture_output=True, text=True, check=True).stdout

    texts = [file.read_text() for file in (source, *sorted(Path(__file__).parent.glob("*.hpp")))]
    key = hashlib.sha256("\0".join([*texts, run("--version"), *command]).encode()).hexdigest()[:20]
    folder = cache_folder() / "kernels"
    built = folder / f"{source.parent.name}_{source.stem}_{key}.so"
    if not built.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            fresh = Path(scratch) / built.name
            run(*command[1:], str(source), "-o", str(fresh))
            # Several processes may build at once: each puts a whole file in place.
            fresh.replace(built)
    return built


def name_of(dtype: torch.dtype) -> str:
    """What functions of the C++ side call a dtype: "float32" or "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's memory begins; None, a null pointer, for none."""
    return None if tensor is None else tensor.data_ptr()
