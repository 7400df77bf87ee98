"""Compiles the Triton kernel for NVIDIA GPUs, without one, and prints what it needs as a line of JSON each.

    python -m tests.kernels.cross_entropy.triton_compiled

In a process of its own, since kernels made for the interpreter can't be compiled.
"""

import itertools
import json
import sys

import triton.language as tl

from lightning_losses.kernels.cross_entropy.triton_kernel import cross_entropy_kernel
from lightning_losses.kernels.cross_entropy.triton_walk import BLOCK, WARPS
from tests.kernels.compiled import needs

VOCABULARY = 128256
# What is asked for: the reduced loss, the rows' statistics, the gradient by them; and all options at once.
FLAGS = ("HAS_BIAS", "SOFTCAP", "TEMPERED", "SMOOTH", "ENTROPY", "STATISTICS", "GRADIENT", "SQUARE")
FORMS = {
    "reduced": {"STATISTICS", "GRADIENT"},
    "statistics": {"STATISTICS", "ENTROPY"},
    "gradient": {"GRADIENT", "ENTROPY"},
    "all": {"HAS_BIAS", "SOFTCAP", "TEMPERED", "SMOOTH", "STATISTICS", "GRADIENT", "SQUARE"},
}


def argument_type(name, dtype):
    if name in ("logits_ptr", "bias_ptr"):
        return f"*{dtype}"
    if name == "target_ptr":
        return "*i64"
    return "*fp32" if name.endswith("_ptr") else "fp32"


def main():
    for architecture, dtype, form in itertools.product((80, 90, 100), ("bf16", "fp16", "fp32"), FORMS):
        if form != "all" and (architecture, dtype) != (90, "bf16"):
            # Where everything fits, a part of it does.
            continue
        flags = {flag: flag in FORMS[form] for flag in FLAGS}
        constants = {**flags, "VOCABULARY": VOCABULARY, "STRIDE": VOCABULARY, "COMPUTE": tl.float32, "BLOCK": BLOCK}
        constants["PARTIAL"] = False
        need = needs(cross_entropy_kernel, lambda name, d=dtype: argument_type(name, d), architecture, constants, WARPS)
        print(json.dumps({"form": form, "architecture": architecture, "dtype": dtype, **need}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
