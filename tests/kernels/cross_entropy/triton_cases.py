"""Runs the Triton kernels under the interpreter and prints, a line of JSON a case, how far they are from float64.

    TRITON_INTERPRET=1 python -m tests.kernels.cross_entropy.triton_cases

The interpreter must be chosen before Triton is imported, hence a process of its own.
"""

import itertools
import json
import sys
from unittest import mock

import torch
from triton.runtime.errors import InterpreterError

from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from lightning_losses.kernels.multiply import multiply
from tests.golden.adapters.lm_ot import cross_entropy_adapter
from tests.golden.harness import HERE, load_cases, run_case


def focal(cross_entropy):
    return (-torch.expm1(-cross_entropy)) ** 2 * cross_entropy


OPTIONS = {
    "plain": {},
    "sum-z": {"z_loss": 0.01, "reduction": "sum"},
    "softcap": {"softcap": 4.0},
    "smoothed": {"label_smoothing": 0.1},
    "all": {"softcap": 4.0, "label_smoothing": 0.2, "z_loss": 0.01, "class_weight": True},
    "rows": {"reduction": "none", "z_loss": 0.01},
    "rows-all": {
        **{"reduction": "none", "softcap": 4.0, "label_smoothing": 0.2, "class_weight": True, "temperature": 0.7},
    },
    "cold": {"temperature": 0.5, "softcap": 4.0, "z_loss": 0.01},
    "focal": {"row_function": focal, "class_weight": True, "z_loss": 0.01},
    "policy": {"reduction": "none", "temperature": 1.3, "return_entropy": True, "return_log_probability": True},
    "masked": {"drop_ignored": False, "label_smoothing": 0.1, "z_loss": 0.01},
    "masked-rows": {"drop_ignored": False, "reduction": "none", "return_lse": True, "return_entropy": True},
    "wide": {"accum_dtype": torch.float32},
    "left-out": {"label_smoothing": 0.2, "class_weight": True, "left_out": True, "drop_ignored": False},
    "left-out-focal": {"row_function": focal, "left_out": True, "drop_ignored": False},
}
SHAPES = [(13, 24, 53), (1, 16, 2), (6, 33, 64)]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def errors(dtype, shape, options, bias, impl="triton"):
    generator = torch.Generator().manual_seed(5)
    tokens, width, vocabulary = shape
    values = [
        torch.randn(tokens, width, generator=generator),
        torch.randn(vocabulary, width, generator=generator),
        torch.randn(vocabulary, generator=generator),
    ]
    target = torch.randint(vocabulary, (tokens,), generator=generator)
    target[1::5] = -100
    if options.get("drop_ignored") is False:
        # Whatever an ignored row holds.
        values[0][1::5] = torch.inf
    options = dict(options)
    if options.pop("left_out", False):
        values[2][::3] = -torch.inf
        target = torch.where((target >= 0) & (target % 3 == 0), target + 1, target)
    if options.get("class_weight") is True:
        options["class_weight"] = torch.linspace(0.5, 2.0, vocabulary)
    upstream = torch.linspace(-1, 2, tokens) if options.get("reduction") == "none" else torch.tensor(-1.5)
    outcomes = []
    for which, kind in ((impl, dtype), ("reference", torch.float64)):
        # Both start from the rounded values, so that only the kernel's own error is left.
        leaves = [value.to(dtype).to(kind).requires_grad_() for value in values]
        value = linear_cross_entropy(leaves[0], leaves[1], target, leaves[2] if bias else None, impl=which, **options)
        used = leaves if bias else leaves[:2]
        # Everything differentiable that came, each with gradients of its own.
        values_of = [value] if isinstance(value, torch.Tensor) else [part for part in value if part is not None]
        total = sum(((number + 1) * upstream.to(part.dtype) * part).sum() for number, part in enumerate(values_of))
        outcomes.append([*(part.detach() for part in values_of), *torch.autograd.grad(total, used)])
    return [
        float((one.double() - other).norm() / other.norm().clamp(min=1e-12))
        for one, other in zip(*outcomes, strict=True)
    ]


LIGER = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "shift": {"shift": 1},
    "smoothed-z": {"label_smoothing": 0.1, "z_loss": 0.01},
}


def liger_errors(options):
    """How far Liger's kernels, which run under the interpreter too, are from the reference in float32."""
    return errors(torch.float32, SHAPES[0], options, True, impl="liger")


# Gradients of a score far above 1, whose float16 entries must not overflow on their way.
STEEP = {
    "class-weight": {"class_weight": torch.full((53,), 300.0), "label_smoothing": 0.3},
    "temperature": {"temperature": 0.01},
    "row-function": {"row_function": lambda cross_entropy: 200 * cross_entropy},
    "z": {"z_loss": 20.0},
    "steeper": {"row_function": lambda cross_entropy: 1e4 * cross_entropy},
    "rows": {"reduction": "none", "class_weight": torch.full((53,), 300.0)},
}


def outside():
    """The values of a target beyond the vocabulary, which nothing checks on a GPU, beside others."""
    hidden, weight, target = torch.randn(3, 4), torch.randn(5, 4), torch.tensor([0, 5, 4])
    with mock.patch("lightning_losses.kernels.inputs.check_targets"):
        return linear_cross_entropy(hidden, weight, target, impl="triton", reduction="none").tolist()


def strided():
    """How far vectors with strides are from their copies: bias, class weight and target."""
    hidden, weight = torch.randn(6, 4), torch.randn(5, 4)
    bias, class_weight, target = torch.randn(10)[::2], torch.rand(10)[::2], torch.tensor([0, 9, 3, 9, -100, 9] * 2)[::2]
    options = {"label_smoothing": 0.2, "impl": "triton", "drop_ignored": True}
    one, other = (
        linear_cross_entropy(hidden, weight, to(target), to(bias), class_weight=to(class_weight), **options)
        for to in (lambda vector: vector, torch.Tensor.contiguous)
    )
    return float((one - other).abs())


def multiplying():
    """What is left of a number times a tensor, in each dtype, of 1 and of another."""
    apart = []
    for dtype, factor in itertools.product(DTYPES.values(), (1.0, -2.5)):
        values = torch.linspace(-3, 3, 20000).to(dtype)
        came = multiply(values.clone(), torch.tensor(factor))
        apart.append(float((came - (values.float() * factor).to(dtype)).abs().max()))
    return apart


def main():
    for name, dtype, shape, bias in itertools.product(OPTIONS, DTYPES, SHAPES, (True, False)):
        # A half type differs in how numbers are read and written: one of each with a bias, one without.
        few = shape == SHAPES[0] and (dtype == "float32" or bias == (dtype == "bfloat16"))
        if not few and (shape == SHAPES[0] or bias or name not in ("plain", "rows", "policy")):
            continue
        came = errors(DTYPES[dtype], shape, OPTIONS[name], bias)
        print(json.dumps({"case": f"{name} {dtype} {shape} bias={bias}", "dtype": dtype, "errors": came}), flush=True)
    for name, options in LIGER.items():
        try:
            print(json.dumps({"case": name, "liger": liger_errors(options)}), flush=True)
        except (InterpreterError, RuntimeError) as error:
            # Its loops have tensors as bounds, which Triton 3.6's interpreter can't take beside NumPy 2.5. Triton 3.2
            # makes no autotuner without a GPU.
            if not (isinstance(error, InterpreterError) or "active drivers" in str(error)):
                raise
            print(json.dumps({"case": name, "liger": None, "reason": str(error)}), flush=True)
    for name, options in STEEP.items():
        print(json.dumps({"case": name, "steep": errors(torch.float16, SHAPES[0], options, True)}), flush=True)
    print(json.dumps({"case": "outside", "outside": outside()}), flush=True)
    print(json.dumps({"case": "strided", "strided": strided()}), flush=True)
    print(json.dumps({"case": "multiply", "apart": multiplying()}), flush=True)
    # The kernels compute in float32; the golden values in float64 are met to float32's accuracy.
    adapter = cross_entropy_adapter("triton", cast=torch.float32)
    for case in load_cases(HERE / "lm_ot"):
        if case.method == "linear_cross_entropy":
            result = run_case(case, {case.method: adapter})
            worst = [error for error in (result.value_error, result.gradient_error) if error is not None]
            print(json.dumps({"case": case.id, "golden": worst, "detail": result.detail}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
