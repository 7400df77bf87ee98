"""What a training step asks of a head besides speed: no waiting for the card, no broken graph, capture."""

import warnings
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.on_cuda import cross_entropy as ce
from benchmarks.on_cuda import distillation as kd
from benchmarks.on_cuda.measurement import Bench, limited, reason
from benchmarks.on_cuda.operands import Forward, Operands, Size, operands, step

SIZE = Size(4096, 1024, 32768, 1024)
HEADS: dict[str, Forward] = {
    "mean": ce.fused,
    "per token": ce.fused_per_token,
    "mean and logsumexps": ce.fused_with_lse,
    "row function": partial(ce.fused, row_function=ce.focal_of_row),
    "focal by chunked_head": ce.fused_focal,
    "StableMax": ce.fused_stablemax,
    **{name: partial(kd.fused, objective=kd.OBJECTIVES[name]) for name in ("KD", "JSD", "NKD")},
    "KD and hard labels": partial(kd.fused, objective=kd.OBJECTIVES["KD"], hard_weight=1.0),
}


def examine(
    questions: tuple[str, ...], bench: Bench, size: Size, advance: Callable[[str], None]
) -> dict[str, dict[str, str]]:
    """For each head: what it answers."""
    torch.set_float32_matmul_precision("highest")
    answers: dict[str, dict[str, str]] = {name: {} for name in HEADS}
    for question in questions:
        for name, forward in HEADS.items():
            advance(f"{question}: {name}")
            if bench.out_of_time():
                answers[name][question] = "not run: the time was up"
                continue
            try:
                with limited(bench.seconds()):
                    answers[name][question] = ASKED[question](
                        forward, operands(size, torch.bfloat16, bench.device), bench
                    )
            except Exception as error:
                answers[name][question] = reason(error)
    bench.release()
    return answers


def _waits(forward: Forward, tensors: Operands, bench: Bench) -> str:
    if not bench.on_card:
        return "-"
    step(forward, tensors)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step(forward, tensors)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [warning for warning in caught if "called a synchronizing" in str(warning.message)]
    places = [f"{warning.filename.rpartition('/')[2]}:{warning.lineno}" for warning in waits]
    return "none" if not places else f"{len(places)} ({', '.join(dict.fromkeys(places))})"


def _compiles(forward: Forward, tensors: Operands, bench: Bench) -> str:
    torch.compiler.reset()
    traced = torch.compile(forward, fullgraph=True, backend="aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = step(traced, tensors)
    return _same(loss, step(forward, tensors))


def _captures(forward: Forward, tensors: Operands, bench: Bench) -> str:
    if not bench.on_card:
        return "-"
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            expected = step(forward, tensors)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        loss = step(forward, tensors)
    graph.replay()
    torch.cuda.synchronize()
    return _same(loss, expected)


def _same(loss: torch.Tensor, expected: torch.Tensor) -> str:
    close = torch.allclose(loss.float(), expected.float(), rtol=1e-3)
    return "yes" if close else f"gives {loss.item():.5g} for {expected.item():.5g}"


WAITS, COMPILES, CAPTURES = "waits for the card", "one graph under `torch.compile`", "captured in a CUDA graph"
ASKED = {WAITS: _waits, COMPILES: _compiles, CAPTURES: _captures}
