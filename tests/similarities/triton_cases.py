"""Runs losses of all pairs by the Triton kernels under the interpreter; prints how far they are from the matrix.

    TRITON_INTERPRET=1 python -m tests.similarities.triton_cases

A line of JSON each. The interpreter must be chosen before Triton is imported, hence a process of its own.
"""

import json
import sys

import torch

from lightning_losses.similarities import partner_cross_entropy, similarity_logsumexp, tiles, triton

ROWS = 70


def operands(dtype):
    generator = torch.Generator().manual_seed(0)
    a, b, queue = (torch.randn(n, 8, generator=generator, dtype=torch.float64).to(dtype) for n in (ROWS, ROWS, 20))
    target = torch.randint(0, 5, (ROWS,), generator=generator)
    return a.requires_grad_(), b.requires_grad_(), queue, target, torch.arange(ROWS) % 7 > 0


def losses(queue, target, kept):
    masks = {"target": target, "kept": kept}
    alone = torch.zeros(ROWS, dtype=torch.int64)

    def logsumexps(a, b, **options):
        return similarity_logsumexp(a, b, **options).masked_fill(~kept, 0.0).square().sum()

    return {
        "one": lambda a, b: partner_cross_entropy(a, b, both=False),
        "one, masked": lambda a, b: partner_cross_entropy(a, b, both=False, **masks),
        "both": lambda a, b: partner_cross_entropy(a, b, scale=2.0),
        "both, masked": lambda a, b: partner_cross_entropy(a, b, **masks),
        "both, without pairs": lambda a, b: partner_cross_entropy(a, b, target=alone),
        "one, queue": lambda a, b: partner_cross_entropy(a, b, negatives=queue, both=False, hardest=9),
        "both, queue": lambda a, b: partner_cross_entropy(a, b, negatives=queue),
        "huge": lambda a, b: partner_cross_entropy(a, b, scale=300.0),
        "rows": lambda a, b: logsumexps(a, None, row_kept=kept) + b.sum(),
        "rows and columns": lambda a, b: logsumexps(a, b, row_kept=kept, column_kept=kept),
    }


def main():
    # One dtype of both widths and one width of both dtypes: the interpreter takes most of a second for each case.
    for dtype, width in ((torch.float32, 512), (torch.float32, 32), (torch.float64, 32)):
        a, b, *others = operands(dtype)
        assert triton.has_kernels(a)
        tiles._width = lambda device, width=width: width
        for name, loss in losses(*others).items():
            outcomes = []
            # The matrix first, then the kernels.
            for tiles.whole_matrix in (lambda rows, columns: True, lambda rows, columns: False):
                value = loss(a, b)
                outcomes.append([value.detach(), *torch.autograd.grad(value, (a, b))])
            errors = [
                float((one - other).norm() / other.norm().clamp(min=1e-6)) for other, one in zip(*outcomes, strict=True)
            ]
            line = {"case": name, "width": width, "dtype": str(dtype).removeprefix("torch."), "errors": errors}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
