"""Runs a program that ends with its parent: python child.py PARENT COMMAND...

Run as a file, it doesn't import the package, and takes a hundredth of a second.
"""

import ctypes
import os
import signal
import sys

# Option of Linux's prctl: the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Request the signal, then execute the command."""
    parent = int(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # The parent ended before the request.
        sys.exit(1)
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
