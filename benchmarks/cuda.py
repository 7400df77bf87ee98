"""Every fused head on one card, against float64 and against every peer that is installed.

    python benchmarks/cuda.py                              # under four minutes; writes docs/benchmarks/cuda_<card>.md
    python benchmarks/cuda.py --quick --only mean          # fewer repetitions, and of two sizes the smaller
    python benchmarks/cuda.py --json run.json              # the raw figures too, after every table
    python benchmarks/cuda.py --render run.json            # the page from them, on any machine
    python benchmarks/cuda.py --sweep                      # the kernels alone, over blocks and warps
    python benchmarks/cuda.py --device cpu --quick         # a rehearsal of all of it, in miniature

A failure (no memory, no package, an unsupported case) is a row with its reason. Cases for which the time does not
suffice are listed as not run; the most important questions come first.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Not this folder: in it this file would hide the package `cuda`, which torch imports.
    sys.path[0] = str(Path(__file__).parents[1])
    from benchmarks.on_cuda.run import main

    main(__doc__)
