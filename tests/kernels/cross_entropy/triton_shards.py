"""Runs the vocab-parallel cross-entropy by Triton's kernel, interpreted, on two processes, against one.

TRITON_INTERPRET=1 python -m tests.kernels.cross_entropy.triton_shards
"""

import itertools
import sys

from lightning_losses.kernels.cross_entropy import triton_walk
from tests.distributed.processes import in_group, run_on_processes
from tests.kernels.test_vocab_parallel import OPTIONS, check_split


def check():
    launches = []
    original = triton_walk.Launch.__call__
    triton_walk.Launch.__call__ = lambda self, *given, **options: (
        launches.append(options),
        original(self, *given, **options),
    )[1]
    for name, split in itertools.product(OPTIONS, ([12, 11], [23, 0], [0, 23])):
        check_split(name, split, 1.0)
    # Statistics, then gradients that know the other process's.
    assert [options["known"] for options in launches[:2]] == [False, True]


if __name__ == "__main__":
    sys.exit(run_on_processes(in_group, 2, check))
