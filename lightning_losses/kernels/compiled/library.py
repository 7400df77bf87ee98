"""C++ implementations for CPUs with AVX-512: compiled at first use, and kept for later runs."""

import ctypes
import hashlib
import json
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

from lightning_losses.environment.atomic_files import write_json
from lightning_losses.environment.cache_folder import cache_folder
from lightning_losses.environment.file_digests import file_digest
from lightning_losses.environment.private_folder import is_users, private_folder
from lightning_losses.numerics.products import cpu_flags, cpu_vendor

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
    """Why a source's functions can't process a head on this machine; None if they can."""
    if weight.device.type != "cpu":
        return f"it runs on a CPU, not on {weight.device.type}"
    if weight.dtype not in (torch.float32, torch.bfloat16) or hidden.dtype != weight.dtype:
        return f"it takes float32 or bfloat16 for both hidden and weight, not {hidden.dtype} and {weight.dtype}"
    if accum_dtype not in (None, weight.dtype, torch.float32):
        return f"it accumulates in {weight.dtype} or float32, not in {accum_dtype}"
    if not weight.is_contiguous():
        return "it takes a contiguous weight"
    missing = [flag for flag in NEEDED if flag not in cpu_flags()]
    if weight.dtype == torch.bfloat16 and "avx512_bf16" not in cpu_flags():
        missing.append("avx512_bf16")
    return f"this CPU lacks {', '.join(missing)}" if missing else load(source).missing


def outrun(dtype: torch.dtype) -> str | None:
    """Why they aren't known to be faster than PyTorch's products on this CPU; None if they are."""
    if cpu_vendor() != "AuthenticAMD":
        return "it was measured on AMD's CPUs alone"
    if dtype == torch.bfloat16 and "amx_bf16" in cpu_flags():
        return "this CPU's AMX multiplies bfloat16 faster"
    return None


class Library(NamedTuple):
    """The functions of a source, or the reason why they are missing."""

    functions: ctypes.CDLL | None
    missing: str | None = None


@cache
def load(source: Path) -> Library:
    """A source, compiled by the environment's CXX or else g++, and kept for later runs of the same source."""
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
    """The library's file, from the cache if it has been built before.

    Loading the file runs its code. So it is in a folder that only this user may write to, and a record beside it holds
    the digests of its inputs (sources, compiler and flags) and of the file; both must match.
    """

    def run(*arguments: str) -> str:
        return subprocess.run([command[0], *arguments], capture_output=True, text=True, check=True).stdout

    texts = [file.read_text() for file in (source, *sorted(Path(__file__).parent.glob("*.hpp")))]
    made_of = hashlib.sha256("\0".join([*texts, run("--version"), *command]).encode()).hexdigest()
    # Users who share a cache have separate folders.
    user = os.getuid() if hasattr(os, "getuid") else "own"
    folder = private_folder(cache_folder() / f"kernels-{user}")
    record = folder / f"{source.parent.name}_{source.stem}_{made_of[:20]}.json"
    built = _recorded(record, made_of)
    if built is None:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            fresh = Path(scratch) / "library.so"
            run(*command[1:], str(source), "-o", str(fresh))
            digest = file_digest(fresh)
            # Several processes may build at once: each moves a complete file into place, then records its name.
            built = fresh.replace(record.with_name(f"{record.stem}_{digest[:20]}.so"))
            write_json(record, {"made_of": made_of, "library": built.name, "sha256": digest}, shared=True)
    return built


def _recorded(record: Path, made_of: str) -> Path | None:
    """The library of a record, if nothing has changed since it was built."""
    try:
        said = json.loads(record.read_text())
        built = record.with_name(Path(said["library"]).name)
        right = said["made_of"] == made_of and is_users(built) and file_digest(built) == said["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return built if right else None


def name_of(dtype: torch.dtype) -> str:
    """The dtype in the names of C++ functions: "float32" or "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def address(tensor: Tensor | None) -> int | None:
    """The address of a tensor's memory; None, a null pointer, for no tensor."""
    return None if tensor is None else tensor.data_ptr()
