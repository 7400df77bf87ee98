"""The cost of importing the losses after torch: fresh processes, interleaved, with the files in the page cache.

    python benchmarks/import_cost.py [rounds]

CPU seconds. The limit is 0.1 s for `import lightning_losses.losses`.
"""

import statistics
import subprocess
import sys

from measure import conditions, show

# What is imported before, and what is timed.
STATEMENTS = {
    "torch": ("", "import torch"),
    "lightning_losses": ("import torch", "import lightning_losses"),
    "lightning_losses.losses": ("import torch", "import lightning_losses.losses"),
    "a loss": ("import torch", "from lightning_losses.losses import KD"),
    "every loss": ("import torch", "import lightning_losses.losses as losses; losses.loss_classes()"),
    "lightning_losses.objective": ("import torch", "import lightning_losses.objective"),
    "lightning": ("import torch", "import lightning"),
}
MEASURE = "{}\nimport time; start = time.process_time(); {}; print(time.process_time() - start)"


def seconds(before: str, statement: str) -> float:
    command = [sys.executable, "-c", MEASURE.format(before, statement)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for round_ in range(rounds + 1):
        for name, (before, statement) in STATEMENTS.items():
            taken = seconds(before, statement)
            if round_:  # the first one compiles and reads from the disk
                times[name].append(taken)
    rows = [
        [name, STATEMENTS[name][0] or "-", f"{statistics.median(values):.3f} [{min(values):.3f}..{max(values):.3f}]"]
        for name, values in times.items()
    ]
    show("CPU seconds to import", ["what", "after", "median [smallest..largest]"], rows)
    print(conditions())


if __name__ == "__main__":
    main()
