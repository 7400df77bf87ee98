"""Compiles every Triton kernel for NVIDIA GPUs, without one, and prints what it needs as a line of JSON each.

    python -m tests.kernels.cross_entropy.triton_compiled

In a process of its own, since kernels made for the interpreter can't be compiled.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lightning_losses.kernels.cross_entropy import triton_kernels
from lightning_losses.kernels.cross_entropy.triton_walks import backward_tiles, forward_tiles, row_block

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
OPERANDS = ("hidden_ptr", "weight_ptr", "bias_ptr", "logits_ptr")
WIDTH, VOCABULARY = 4096, 128256


def argument_type(name, dtype):
    if name in OPERANDS:
        return f"*{dtype}"
    if name == "target_ptr":
        return "*i64"
    if name.endswith("_ptr"):
        return "*fp32"
    return "fp32" if name in ("softcap", "filter_eps") else "i32"


def needs(kernel, dtype, architecture, constants, warps, stages):
    """Registers, spilled bytes and shared memory of one compiled kernel."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else argument_type(name, dtype) for name in names}
    aligned = {(n,): [["tt.divisibility", 16]] for n, name in enumerate(names) if name.endswith("_ptr")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    made = triton.compile(
        source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps, "num_stages": stages}
    )
    report = assembled(made.asm["ptx"], architecture)
    return {
        "registers": number(r"Used (\d+) registers", report),
        "shared": made.metadata.shared,
        "spilled": number(r"(\d+) bytes spill stores", report) + number(r"(\d+) bytes spill loads", report),
    }


def assembled(ptx, architecture):
    assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
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


def number(pattern, text):
    return int(re.findall(pattern, text)[0])


def main():
    for architecture in (80, 90):
        for name, dtype in DTYPES.items():
            flags = {"SOFTCAP": True, "SMOOTH": True}
            found = {
                "cross_entropy": needs(
                    triton_kernels.cross_entropy_kernel,
                    name,
                    architecture,
                    {**flags, "GRADIENT": True, "BLOCK": row_block(VOCABULARY)},
                    8,
                    3,
                )
            }
            for label, kernel, tiles, more in (
                ("head_forward", triton_kernels.head_forward_kernel, forward_tiles(dtype), {}),
                ("head_backward", triton_kernels.head_backward_kernel, backward_tiles(dtype), {"FILTER": True}),
            ):
                constants = {
                    **flags,
                    **more,
                    "WIDTH": WIDTH,
                    "HAS_BIAS": True,
                    "ROWS": tiles.rows,
                    "COLUMNS": tiles.columns,
                    "INNER": tiles.inner,
                    "UPCAST": False,
                }
                found[label] = needs(kernel, name, architecture, constants, tiles.warps, tiles.stages)
            for label, need in found.items():
                print(json.dumps({"kernel": label, "architecture": architecture, "dtype": name, **need}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
