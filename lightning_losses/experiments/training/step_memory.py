"""The most memory that one training step holds, beyond what was there before it."""

import gc
import os
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def step_memory(step: Callable[[], object], device: torch.device) -> int:
    """Run a step twice, and return the bytes at its peak: activations, gradients, what a loss needs between them.

    What stays after it, such as an optimizer's state, is not counted. On CUDA it is the allocator's own count,
    elsewhere the sum of what torch's profiler saw allocated and freed, so that it is the same in every run, whatever
    the process held before.

    Args:
        step: what is measured.
        device: where it works.

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
