"""What a Triton kernel needs of a GPU, from its compiler alone."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Bytes that a program may have, by architecture."""
compiles = pytest.mark.skipif(
    tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3), reason="Triton before 3.3 is asked in another way"
)


def needs(kernel, type_of, architecture, constants, warps, stages=3):
    """Registers, spilled bytes, shared memory and loads of 16 bytes a thread of one compiled kernel.

    Args:
        kernel: a `triton.jit` function.
        type_of: the type of an argument by its name, as Triton writes it.
        architecture: 80, 90 or 100.
        constants: the values of its compile-time constants.
        warps, stages: how a program runs it.
    """
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else type_of(name) for name in names}
    aligned = {(n,): [["tt.divisibility", 16]] for n, name in enumerate(names) if name.endswith("_ptr")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    built = triton.compile(
        source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps, "num_stages": stages}
    )
    report = _assembled(built.asm["ptx"], architecture)
    return {
        "registers": _number(r"Used (\d+) registers", report),
        "shared": built.metadata.shared,
        "spilled": _number(r"(\d+) bytes spill stores", report) + _number(r"(\d+) bytes spill loads", report),
        "wide": built.asm["ptx"].count("ld.global.v4"),
    }


def _assembled(ptx, architecture):
    folder_of_tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    assembler = folder_of_tools / ("ptxas-blackwell" if architecture >= 100 else "ptxas")
    if not assembler.is_file():
        assembler = folder_of_tools / "ptxas"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        name = f"sm_{architecture}{'a' if architecture >= 90 else ''}"
        done = subprocess.run(
            [assembler, "-v", f"--gpu-name={name}", source, "-o", os.devnull],
            capture_output=True,
            text=True,
            check=True,
        )
    return done.stdout + done.stderr


def _number(pattern, text):
    return int(re.findall(pattern, text)[0])
