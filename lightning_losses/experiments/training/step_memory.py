"""The peak memory of one training step, beyond the memory held before it."""

import gc
import os
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def step_memory(step: Callable[[], object], device: torch.device) -> int:
    """Run a step twice, and return its peak memory in bytes: activations, gradients, and a loss's intermediate values.

    Memory that stays after the step, such as an optimizer's state, is not counted. On CUDA the number is the
    allocator's own count; elsewhere it is the sum of the allocations and frees that torch's profiler records, so that
    it is the same in every run, whatever memory the process held before.

    Args:
        step: the function to measure.
        device: on which it runs.

    Example:
        >>> step_memory(lambda: torch.zeros(1000) + torch.zeros(1000), torch.device("cpu"))
        12000
    """
    if device.type == "cuda":
        step()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
    # What is freed here because something before it left a cycle would be taken for the step's.
    gc.collect()
    # The profiler's engine tells of every start on stderr, unless it was asked for fatal errors alone before.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
        step()
    held = peak = 0
    events = found.profiler.kineto_results.events() if found.profiler is not None else []
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak - held
