"""The whole fuzzing, with counts: python -m tests.fuzz [--seeds N] [--seed N]; the suite runs a bounded form."""

import argparse
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from tests import test_fuzz_configs, test_fuzz_losses


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="of every case of every loss")
    parser.add_argument("--configs", type=int, default=2000, help="malformed configurations")
    parser.add_argument("--seed", type=int, default=0, help="the first of the losses', and that of the configurations")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    broken, here = 0, Path.cwd()
    bases = (*test_fuzz_configs.BASES, *test_fuzz_configs.SLOWER_BASES)
    # As in the suite: a warning is a fault.
    warnings.simplefilter("error")
    for title, run in {
        "losses": lambda folder: test_fuzz_losses.fuzz(arguments.seeds, arguments.seed),
        "configurations": lambda folder: test_fuzz_configs.fuzz(arguments.configs, folder, arguments.seed, bases),
    }.items():
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            started = time.perf_counter()
            counts, wrong = run(Path(folder))
            seconds = time.perf_counter() - started
            os.chdir(here)
        print(f"{title}: {', '.join(f'{count} {kind}' for kind, count in counts.items())}; {seconds:.0f} s")
        for case, outcome in wrong.items():
            print(f"  {case}: {outcome}")
        broken += len(wrong)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
