"""Compiles the Triton kernels of similarities for NVIDIA GPUs, without one, and prints what each needs.

    python -m tests.similarities.triton_compiled

A line of JSON each; in a process of its own, since kernels made for the interpreter can't be compiled.
"""

import itertools
import json
import sys

import triton.language as tl

from lightning_losses.similarities.triton_kernel import column_kernel, row_kernel
from tests.kernels.compiled import needs

ROWS = {"SUMS": True, "SLOPES": True, "BOTH": True, "BLOCK": 4096}
COLUMNS = {"HEIGHT": 128, "WIDTH": 32}


def argument_type(name, dtype):
    return f"*{dtype}" if name.endswith("_ptr") else "i32"


def main():
    kinds = {"fp32": tl.float32, "fp64": tl.float64}
    for architecture, (dtype, compute) in itertools.product((80, 90, 100), kinds.items()):
        for kernel, constants, warps in ((row_kernel, ROWS, 16), (column_kernel, COLUMNS, 8)):
            constants = {**constants, "COMPUTE": compute}
            need = needs(kernel, lambda name, d=dtype: argument_type(name, d), architecture, constants, warps)
            print(json.dumps({"architecture": architecture, "dtype": dtype, **need}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
