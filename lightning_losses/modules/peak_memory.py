"""The peak memory since a moment."""

import sys
from pathlib import Path

import torch


class PeakMemory:
    """Peak memory in bytes: that of torch on a CUDA device, or that of the process elsewhere.

    On CUDA it is `torch.cuda.max_memory_allocated`, on Linux the process's resident memory (VmHWM), including libraries
    and data; each object resets both. On other systems, and if Linux refuses the reset, it is the peak of the process's
    resident memory since it started (getrusage).

    Args:
        device: the device of the work.

    Example:
        >>> PeakMemory(torch.device("cpu")).bytes() > 2**20
        True
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.resident = False
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            try:
                Path("/proc/self/clear_refs").write_text("5")
                self.resident = "VmHWM" in _status()
            except OSError:
                # The kernel of a sandbox may lack this file.
                self.resident = False

    def bytes(self) -> int:
        """The peak so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if self.resident:
            return 1024 * int(_status()["VmHWM"].split()[0])
        import resource  # not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def _status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
