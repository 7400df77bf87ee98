"""The surroundings of a measurement: hardware, versions of the packages, and the day; and the machine's memory."""

import math
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch

_LIBRARIES = ("torch", "lightning", "lightning_losses")


def measured_with() -> dict[str, str]:
    """The processor that this process computes on, its threads, versions and the day, by name.

    Example:
        >>> list(measured_with())
        ['hardware', 'Python', 'torch', 'lightning', 'lightning_losses', 'on']
    """
    threads = torch.get_num_threads()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return {
        "hardware": f"{device}, {threads} thread{'' if threads == 1 else 's'}",
        "Python": platform.python_version(),
        **{library: version(library) for library in _LIBRARIES},
        "on": time.strftime("%Y-%m-%d"),
    }


def host_memory() -> float:
    """The bytes of memory that this machine has; infinity where the system does not tell.

    Example:
        >>> host_memory() > 1e6
        True
    """
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.is_file() else []
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    name = told.get("model name") or platform.processor() or platform.machine()
    # Under a hypervisor the name may not say which one it is.
    return f"{name} (family {told['cpu family']}, model {told['model']})" if "cpu family" in told else name
