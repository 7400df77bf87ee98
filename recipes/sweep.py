"""Run a W&B sweep file without a server.

    python recipes/sweep.py conf/sweep/distill.yaml count=10
    python recipes/sweep.py conf/sweep/distill.yaml count=10 parallel=2 data=digits    # overrides go to every trial
    python recipes/sweep.py conf/sweep/grokking.yaml count=20 folder=outputs/sweeps/second

The same command continues a sweep that was interrupted; a trial that has ended is never run again. With a server, the
same file is started by `wandb sweep FILE`.

    count=N         trials in all; not needed if the grid or run_cap determines the number
    parallel=N      trials at once (1)
    folder=FOLDER   folder of the sweep (outputs/sweeps/<name of the file>)
    search_seed=N   seed of the random search (0)
    retry=true      run failed trials again

The exit code is 1 if every trial failed, or none has a finite value of the metric.
"""

import shlex
import sys
from collections.abc import Sequence

from rich.console import Console

from lightning_losses.experiments.config.instantiate import ConfigError
from lightning_losses.experiments.help_page import version_line
from lightning_losses.experiments.launch import script
from lightning_losses.experiments.messages import message, refused


def main(arguments: Sequence[str] | None = None, program: str | None = None) -> None:
    """Start with the words of the command line, or with these."""
    arguments = sys.argv[1:] if arguments is None else arguments
    program = program or script()
    command = f"{program} {shlex.join(arguments)}"
    if not arguments or {"-h", "--help"} & set(arguments):
        print((__doc__ or "").replace("python recipes/sweep.py", program))
        sys.exit(0 if arguments else 2)
    if "--version" in arguments:
        print(version_line())
        return
    # Here, so that what is only shown waits for no torch.
    from lightning_losses.experiments.sweeps.runner import AllFailedError
    from lightning_losses.experiments.sweeps.sweep import parse, sweep

    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    try:
        report = sweep(*parse(arguments), program=program, command=command)
    except KeyboardInterrupt:
        console.print(f"Interrupted. Continue this sweep by\n  {command}")
        sys.exit(130)
    except ConfigError as error:
        console.print(f"Error: {error}")
        sys.exit(1 if isinstance(error, AllFailedError) else 2)
    except OSError as error:
        if not refused(error):
            raise
        console.print(f"Error: {message(error)}\nWhen that is mended, continue this sweep by\n  {command}")
        sys.exit(2)
    if report.ended and all(trial.state == "failed" for trial in report.ended):
        console.print("Error: every trial failed; retry=true runs them again when that is mended.")
        sys.exit(1)
    if report.sweep.metric is not None and all(trial.value(report.sweep.metric) is None for trial in report.ended):
        console.print(f"Error: no trial has a finite value of {report.sweep.metric.name}; search other parameters.")
        sys.exit(1)


if __name__ == "__main__":
    main()
