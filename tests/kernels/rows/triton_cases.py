"""Runs the kernel of distillation under the interpreter and prints, a line of JSON a case, how far it is from float64.

    TRITON_INTERPRET=1 python -m tests.kernels.rows.triton_cases

The interpreter must be chosen before Triton is imported, hence a process of its own.
"""

import itertools
import json
import sys

import torch

from lightning_losses.kernels.linear_distillation import TeacherLogits, TopKLogits, linear_distillation
from lightning_losses.kernels.rows import triton_walk
from lightning_losses.numerics.reduction import reduce
from tests.kernels.rows.divergences import OBJECTIVES, of_class

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOKENS, WIDTH, TEACHER_WIDTH, VOCABULARY = 3, 8, 12, 37
HARD = {"hard_weight": 0.3, "soft_weight": 0.7}
FEW = ("kd", "nkd", "jsd", "reverse_kl")


def problem(dtype, masked=None):
    """Hidden states, heads and biases, all rounded to `dtype`; `masked` takes classes from a network, or both."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(TOKENS, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,)]
    shapes += [(TOKENS, TEACHER_WIDTH), (VOCABULARY, TEACHER_WIDTH), (VOCABULARY,)]
    tensors = [torch.randn(shape, generator=generator).mul(0.7).to(dtype) for shape in shapes]
    if masked in ("student", "both"):
        tensors[2][[5, 30]] = -torch.inf
    if masked in ("teacher", "both"):
        tensors[5][[5, 30]] = -torch.inf
    target = torch.randint(6, 29, (TOKENS,), generator=generator)
    return tensors, target


def errors(name, dtype, options, *, ignored=False, masked=None, teacher="head", upstream=1.0):
    objective = OBJECTIVES[name]
    # A row is two blocks long.
    triton_walk.BLOCK_BYTES = 32 * dtype.itemsize
    tensors, target = problem(dtype, masked)
    kept = torch.ones(TOKENS, dtype=torch.bool)
    if ignored:
        kept[1::3] = False
    exact = [tensor.double() for tensor in tensors]
    full = exact[3] @ exact[4].t() + exact[5]
    given = {"teacher_weight": tensors[4], "teacher_bias": tensors[5], "teacher_hidden": tensors[3]}
    if teacher == "cache":
        values, classes = full.to(dtype).topk(9, dim=1)
        full = torch.full_like(full, -torch.inf).scatter_(1, classes, values.double())
        if ignored:
            classes[1::3] = -1
        given = {"teacher_hidden": TopKLogits(values, classes)}
    elif teacher == "tail":
        cache = TopKLogits.of(full.to(dtype), 9)
        full = cache.rest.unsqueeze(1).expand_as(full).scatter(1, cache.classes, cache.values).double()
        cache.rest[~kept] = torch.nan
        given = {"teacher_hidden": cache}
    elif teacher == "logits":
        given = {"teacher_hidden": TeacherLogits(full.to(dtype))}
        full = full.to(dtype).double()
    before = {key: value.clone() for key, value in given.items() if isinstance(value, torch.Tensor)}
    if ignored:
        # Whatever stands in rows that don't count must reach nothing.
        tensors[0][~kept] = torch.nan
    for each in (exact, tensors):
        each[:3] = [tensor.clone().requires_grad_() for tensor in each[:3]]
    value = linear_distillation(
        *tensors[:2],
        target=torch.where(kept, target, -100),
        objective=objective,
        bias=tensors[2],
        chunk=2,
        drop_ignored=False,
        impl="triton",
        **given,
        **options,
    )
    wanted, parts = of_class(objective, exact, target, kept, options, full)
    weights = torch.linspace(-1, 2, TOKENS) if options.get("reduction") == "none" else torch.tensor(upstream)
    found = torch.autograd.grad((weights * value.loss).sum(), tensors[:3])
    right = torch.autograd.grad((weights.double() * wanted).sum(), exact[:3])
    if options.get("hard_weight"):
        found += (value.hard, value.soft)
        right += tuple(reduce(part, options.get("reduction", "mean"), kept) for part in parts[::-1])
    assert all(torch.equal(given[key], tensor) for key, tensor in before.items()), "the teacher was written to"
    assert not ignored or (found[0][~kept] == 0).all()
    pairs = zip((value.loss, *found), (wanted, *right), strict=True)
    return [
        float((one.detach().double() - other.detach()).norm() / other.detach().norm().clamp(min=1e-12))
        for one, other in pairs
    ]


def nothing():
    """What is not a number in a network, or in all its classes, is none in the value either."""
    tensors, target = problem(torch.float32)
    for (name, objective), place in itertools.product(OBJECTIVES.items(), (0, 3)):
        broken = [tensor.clone() for tensor in tensors]
        broken[place][1] = torch.nan
        value = linear_distillation(
            *broken[:2], broken[3], broken[4], target, objective=objective, reduction="none", impl="triton"
        ).loss
        yield {"case": f"{name} of {place}", "nan": value.isnan().tolist()}


def main():
    settings = [("hard ignored", HARD, {"ignored": True}), ("rows", {"reduction": "none"}, {})]
    for name, dtype, (label, options, more) in itertools.product(OBJECTIVES, DTYPES, settings):
        # A half type differs in how numbers are read and written.
        if dtype == "float32" or (label == "hard ignored" and (dtype == "bfloat16" or name in FEW)):
            found = errors(name, DTYPES[dtype], options, **more)
            print(json.dumps({"case": f"{name} {dtype} {label}", "dtype": dtype, "errors": found}), flush=True)
    for name, masked in itertools.product(OBJECTIVES, ("student", "teacher", "both")):
        if masked != "both" and name not in FEW:
            continue
        found = errors(name, torch.float32, {**HARD, "reduction": "sum"}, masked=masked)
        print(json.dumps({"case": f"{name} masked {masked}", "dtype": "float32", "errors": found}), flush=True)
    for name, teacher in itertools.product(FEW, ("cache", "logits")):
        for dtype in ("float32", "bfloat16"):
            found = errors(name, DTYPES[dtype], HARD, ignored=True, teacher=teacher)
            print(json.dumps({"case": f"{name} {dtype} {teacher}", "dtype": dtype, "errors": found}), flush=True)
    print(
        json.dumps(
            {
                "case": "tail",
                "dtype": "float32",
                "errors": errors("reverse_kl", torch.float32, HARD, ignored=True, teacher="tail"),
            }
        )
    )
    # A mean over many tokens: its gradient's entries are below what float16 has.
    found = errors("kd", torch.float16, {"normalizer": 2.0**20, **HARD}, upstream=2.0**20)
    print(json.dumps({"case": "kd float16 scaled", "dtype": "float16", "errors": found}), flush=True)
    for line in nothing():
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
