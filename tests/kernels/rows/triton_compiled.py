"""Compiles the kernel of distillation for NVIDIA GPUs, without one, and prints what it needs as a line of JSON each.

    python -m tests.kernels.rows.triton_compiled

In a process of its own, since kernels made for the interpreter can't be compiled.
"""

import itertools
import json
import sys

from lightning_losses.kernels.rows.triton_kernel import distillation_kernel
from lightning_losses.kernels.rows.triton_objectives import DIVERGENCES
from lightning_losses.kernels.rows.triton_walk import BLOCK_BYTES, STAGES, WARPS
from tests.kernels.compiled import needs

VOCABULARIES = {"aligned": (128256, 128256), "odd": (50257, 50272)}
SCORES = ("student_ptr", "teacher_ptr", "student_bias_ptr", "teacher_bias_ptr")
FLAGS = {"HARD": True, "SOFTENED": True, "GRADIENT": True, "STUDENT_BIAS": True, "TEACHER_BIAS": True}


def argument_type(name, dtype):
    if name in SCORES:
        return f"*{dtype}"
    return "*i64" if name == "target_ptr" else "*fp32" if name.endswith("_ptr") else "fp32"


def constants_of(divergence, vocabulary, flags, block):
    """The kernel's constants for one divergence."""
    width, stride = VOCABULARIES[vocabulary]
    return {
        "SLOPE": divergence.slope,
        "TERM": divergence.term,
        "FORWARD": divergence.forward,
        "REVERSE": divergence.reverse,
        "EXCLUDE": divergence.excluding,
        **flags,
        "VOCABULARY": width,
        "STUDENT_STRIDE": stride,
        "TEACHER_STRIDE": stride,
        "TEACHER_WIDTH": stride,
        "BLOCK": block,
        "STAGES": STAGES,
    }


def main():
    plain = dict.fromkeys(FLAGS, False) | {"GRADIENT": True}
    settings = [
        ("bf16", "odd", plain, "plain"),
        ("fp32", "aligned", FLAGS, "all"),
        ("bf16", "aligned", FLAGS, "all"),
    ]
    for architecture, name, (dtype, vocabulary, flags, form) in itertools.product((80, 90, 100), DIVERGENCES, settings):
        if architecture != 90 and dtype == "bf16":
            # Where float32 fits with everything, the others do.
            continue
        constants = constants_of(DIVERGENCES[name], vocabulary, flags, BLOCK_BYTES // (4 if dtype == "fp32" else 2))
        need = needs(distillation_kernel, lambda name, d=dtype: argument_type(name, d), architecture, constants, WARPS)
        case = f"{name} {dtype} {vocabulary} {form}"
        print(json.dumps({"case": case, "architecture": architecture, **need}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
