"""Runs the Triton kernels under the interpreter and prints, a line of JSON a case, how far they are from float64.

    TRITON_INTERPRET=1 python -m tests.kernels.cross_entropy.triton_cases

The interpreter must be chosen before Triton is imported, hence a process of its own.
"""

import itertools
import json
import sys

import torch

from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from tests.golden.adapters.lm_ot import cross_entropy_adapter
from tests.golden.harness import HERE, load_cases, run_case

OPTIONS = {
    "plain": {},
    "sum-z": {"z_loss": 0.01, "reduction": "sum"},
    "softcap": {"softcap": 4.0},
    "smoothed": {"label_smoothing": 0.1},
    "all": {"softcap": 4.0, "label_smoothing": 0.2, "z_loss": 0.01, "class_weight": True},
    "rows": {"reduction": "none", "z_loss": 0.01},
    "rows-all": {"reduction": "none", "softcap": 4.0, "label_smoothing": 0.2, "class_weight": True},
}
SHAPES = [(37, 24, 53), (1, 16, 2), (16, 33, 64)]
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
    options = dict(options)
    if options.pop("class_weight", False):
        options["class_weight"] = torch.linspace(0.5, 2.0, vocabulary)
    upstream = torch.linspace(-1, 2, tokens) if options.get("reduction") == "none" else torch.tensor(-1.5)
    found = []
    for which, kind in ((impl, dtype), ("reference", torch.float64)):
        # Both start from the rounded values, so that only the kernel's own error is left.
        leaves = [value.to(dtype).to(kind).requires_grad_() for value in values]
        loss = linear_cross_entropy(leaves[0], leaves[1], target, leaves[2] if bias else None, impl=which, **options)
        used = leaves if bias else leaves[:2]
        found.append([loss.detach(), *torch.autograd.grad((upstream.to(loss.dtype) * loss).sum(), used)])
    return [
        float((one.double() - other).norm() / other.norm().clamp(min=1e-12)) for one, other in zip(*found, strict=True)
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


def filtering():
    """What skipping tiles does: nothing at a tiny threshold, all at 2, and within its bound between."""
    generator = torch.Generator().manual_seed(6)
    # The first half of the tokens is certain, and right: its tiles can go. The other half is not.
    hidden = torch.randn(64, 16, generator=generator)
    hidden[:32] *= 40
    weight = torch.randn(64, 16, generator=generator)
    target = (hidden @ weight.t()).argmax(dim=1)
    hidden.requires_grad_()

    def gradient(**options):
        return torch.autograd.grad(linear_cross_entropy(hidden, weight, target, reduction="sum", **options), hidden)[0]

    whole = gradient(impl="reference")
    exact, some, none = (gradient(impl="triton", filter_eps=eps) for eps in (1e-30, 0.2, 2.0))
    return {
        "exact": float((exact - whole).abs().max()),
        "dropped": float(none.abs().max()),
        "changed": float((some - whole).abs().max()),
        "over_bound": float(((some - whole).abs() / (0.2 * weight.abs().sum(dim=0))).max()),
    }


def main():
    for name, dtype, shape, bias in itertools.product(OPTIONS, DTYPES, SHAPES, (True, False)):
        if shape != SHAPES[0] and (bias or name not in ("plain", "rows")):
            continue
        found = errors(DTYPES[dtype], shape, OPTIONS[name], bias)
        print(json.dumps({"case": f"{name} {dtype} {shape} bias={bias}", "dtype": dtype, "errors": found}), flush=True)
    for name, options in LIGER.items():
        print(json.dumps({"case": name, "liger": liger_errors(options)}), flush=True)
    print(json.dumps({"case": "filter", **filtering()}), flush=True)
    # The kernels compute in float32; the golden values in float64 are met to float32's accuracy.
    adapter = cross_entropy_adapter("triton", cast=torch.float32)
    for case in load_cases(HERE / "lm_ot"):
        if case.method == "linear_cross_entropy":
            result = run_case(case, {case.method: adapter})
            worst = [error for error in (result.value_error, result.gradient_error) if error is not None]
            print(json.dumps({"case": case.id, "golden": worst, "detail": result.detail}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
