"""Fused distillation between two heads, forward and backward, against the unfused pair of heads.

    python benchmarks/linear_distillation.py --quick
    python benchmarks/linear_distillation.py --tokens 1024 4096 --width 512 2048 --vocabulary 8192 32768

The unfused pair is torch's own `kl_div` and `log_softmax` on float32 scores where they suffice, and this library's loss
on the logits otherwise. Ratios of CPU time on one thread, memory as in `linear_cross_entropy.py`, and the error of the
hidden states' gradient against float64 (at N = 256).
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from linear_cross_entropy import DTYPES, data
from measure import (
    conditions,
    console,
    interleave,
    memory_in_fresh_process,
    peak_extra_bytes,
    product_rate,
    ratios,
    release_freed,
    show,
)
from torch import Tensor

from lightning_losses import KD, NKD, ForwardKL, GeneralizedJSD, ReverseKL, linear_distillation
from lightning_losses.environment.atomic_files import write_json
from lightning_losses.kernels.compiled.library import unsupported
from lightning_losses.kernels.cross_entropy.peers import installed
from lightning_losses.kernels.rows.avx512_pair import SOURCE

OBJECTIVES = {
    "forward_kl": ForwardKL(2.0),
    "reverse_kl": ReverseKL(2.0),
    "jsd": GeneralizedJSD(),
    "nkd": NKD(),
    "kd": KD(2.0),
}
Tensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def unfused(objective: str) -> Loss:
    loss = OBJECTIVES[objective]

    def pair(hidden: Tensor, weight: Tensor, teacher_hidden: Tensor, teacher_weight: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            teacher_logits = F.linear(teacher_hidden, teacher_weight)
        logits = F.linear(hidden, weight)
        if objective not in ("forward_kl", "reverse_kl", "kd"):
            return loss(logits, teacher_logits, target)
        student = F.log_softmax(logits.float() / 2, dim=-1)
        teacher = F.log_softmax(teacher_logits.float() / 2, dim=-1)
        first, second = (teacher, student) if objective == "reverse_kl" else (student, teacher)
        return F.kl_div(first, second, reduction="batchmean", log_target=True)

    return pair


def fused(objective: str, **options: object) -> Loss:
    return lambda *tensors: linear_distillation(*tensors, objective=OBJECTIVES[objective], **options).loss


def liger(objective: str, chunk: int) -> Loss:
    from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDFunction

    beta = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.5}[objective]
    temperature = 1.0 if objective == "jsd" else 2.0

    def evaluate(
        hidden: Tensor, weight: Tensor, teacher_hidden: Tensor, teacher_weight: Tensor, target: Tensor
    ) -> Tensor:
        found = LigerFusedLinearJSDFunction.apply(
            hidden,
            weight,
            teacher_hidden,
            teacher_weight,
            target,
            None,
            None,
            0.0,
            1.0,
            beta,
            -100,
            temperature,
            False,
            chunk,
            False,
        )
        return found[0] if isinstance(found, tuple) else found

    return evaluate


def variants(names: list[str], objective: str, dtype: torch.dtype) -> dict[str, Loss]:
    walk = unsupported(SOURCE, *(torch.zeros(1, 1, dtype=dtype),) * 2) is None
    offered: dict[str, Callable[[], Loss] | None] = {
        "unfused": lambda: unfused(objective),
        "avx512": (lambda: fused(objective, impl="avx512")) if walk else None,
        "chunked": lambda: fused(objective, impl="chunked"),
        "chunked-256": lambda: fused(objective, impl="chunked", chunk=256),
        "autograd": lambda: fused(objective, impl="autograd"),
    }
    if installed("liger_kernel") and objective in ("forward_kl", "reverse_kl", "jsd"):
        offered["liger-256"] = lambda: liger(objective, 256)
        offered["liger-1024"] = lambda: liger(objective, 1024)
    return {name: make() for name in names if (make := offered.get(name)) is not None}


def pair_of_heads(dtype: torch.dtype, tokens: int, width: int, vocabulary: int) -> Tensors:
    hidden, weight, target = data(dtype, tokens, width, vocabulary)
    teacher_hidden = torch.randn(tokens, width).to(dtype)
    teacher_weight = (torch.randn(vocabulary, width) / width**0.5).to(dtype)
    return hidden, weight, teacher_hidden, teacher_weight, target


def step(loss: Loss, *tensors: Tensor) -> None:
    tensors[0].grad = tensors[1].grad = None
    loss(*tensors).backward()


def memory(name: str, objective: str, dtype: str, tokens: int, width: int, vocabulary: int) -> None:
    torch.set_num_threads(1)
    loss = variants([name], objective, DTYPES[dtype])[name]
    tensors = pair_of_heads(DTYPES[dtype], tokens, width, vocabulary)
    step(loss, *tensors)
    tensors[0].grad = tensors[1].grad = None
    release_freed()
    print(json.dumps(peak_extra_bytes(lambda: step(loss, *tensors), list(tensors[:2])) / 1e6))


def gradient_error(loss: Loss, objective: str, dtype: str, width: int, vocabulary: int) -> float:
    tensors = pair_of_heads(DTYPES[dtype], 256, width, vocabulary)
    exact = tuple(t.detach().double() if t.is_floating_point() else t for t in tensors)
    exact[0].requires_grad_(), exact[1].requires_grad_()
    step(loss, *tensors)
    step(unfused_exact(objective), *exact)
    assert tensors[0].grad is not None and exact[0].grad is not None
    return float((tensors[0].grad.double() - exact[0].grad).norm() / exact[0].grad.norm())


def unfused_exact(objective: str) -> Loss:
    loss = OBJECTIVES[objective]
    return lambda h, w, th, tw, target: loss(h @ w.t(), th @ tw.t(), target)


def case(
    names: list[str],
    objective: str,
    dtype: str,
    tokens: int,
    width: int,
    vocabulary: int,
    rounds: int,
    threads: int,
    with_memory: bool,
) -> dict[str, dict[str, float | None]]:
    tensors = pair_of_heads(DTYPES[dtype], tokens, width, vocabulary)
    found = variants(names, objective, DTYPES[dtype])
    title = f"{objective} {dtype} N={tokens} D={width} V={vocabulary}"
    times = interleave({name: partial(step, loss, *tensors) for name, loss in found.items()}, rounds, threads, title)
    floor = 8 * tokens * width * vocabulary / product_rate(DTYPES[dtype], width, vocabulary, threads)
    errors = {
        name: gradient_error(loss, objective, dtype, width, min(vocabulary, 8192)) for name, loss in found.items()
    }
    shape = (
        "--objective",
        objective,
        "--dtype",
        dtype,
        "--tokens",
        tokens,
        "--width",
        width,
        "--vocabulary",
        vocabulary,
    )
    megabytes = {
        name: memory_in_fresh_process(__file__, "--memory", name, *shape) if with_memory else None for name in found
    }
    whole = megabytes["unfused"]
    relative = ratios(times, "unfused")
    show(
        f"{title}, {threads} thread(s)",
        ["variant", "time / unfused", "time / floor", "gradient error", "MB", "of unfused"],
        [
            [
                name,
                str(ratio),
                f"{statistics.median(times[name]) / floor:.2f}",
                f"{errors[name]:.1e}",
                "-" if megabytes[name] is None else f"{megabytes[name]:.0f}",
                "-" if megabytes[name] is None or not whole else f"{100 * megabytes[name] / whole:.1f} %",
            ]
            for name, ratio in relative.items()
        ],
    )
    return {
        name: {
            "ratio": ratio.median,
            "low": ratio.low,
            "high": ratio.high,
            "over_floor": statistics.median(times[name]) / floor,
            "gradient_error": errors[name],
            "megabytes": megabytes[name],
        }
        for name, ratio in relative.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objective", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES)[:4])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--width", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[8192, 32768, 131072])
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument(
        "--variants", nargs="+", default=["unfused", "avx512", "chunked", "autograd", "liger-256", "liger-1024"]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory", help="print the megabytes of one variant alone")
    parser.add_argument("--quick", action="store_true", help="one small size, two rounds")
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    if options.memory:
        memory(
            options.memory,
            options.objective[0],
            options.dtype[0],
            options.tokens[0],
            options.width[0],
            options.vocabulary[0],
        )
        return
    if options.quick:
        options.tokens, options.width, options.vocabulary, options.rounds = [512], [256], [8192], 2
    console.print(conditions())
    results = {}
    for objective, dtype, *shape in itertools.product(
        options.objective, options.dtype, options.tokens, options.width, options.vocabulary
    ):
        results[f"{objective} {dtype} {shape}"] = case(
            options.variants, objective, dtype, *shape, options.rounds, options.threads, not options.no_memory
        )
    console.print(conditions())
    if options.output:
        write_json(options.output, results)


if __name__ == "__main__":
    main()
