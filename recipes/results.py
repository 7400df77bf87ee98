"""Run a fixed list of experiments on seeds that they were not tuned on; write the verdicts on their claims.

    make results                                                    # what RESULTS.md was made by
    python recipes/results.py --experiments grok_xor --seeds 7,8    # others, on other seeds
    python recipes/results.py --stale                               # runs of earlier versions of the code too

The verdicts go to RESULTS.md, each experiment's numbers to a page in docs/results/. A finished run is not run again
unless its settings or its code have changed; an interrupted run continues. A claim that does not hold is a valid
result: the exit code is 1 only if a run fails, or if there are no results.
"""

import argparse
import sys
from pathlib import Path


def main() -> int:
    """Start from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", help="names, with commas between; all, unless given")
    parser.add_argument("--seeds", help="of the grokking experiments, with commas between")
    parser.add_argument("--folder", type=Path, default=Path("outputs/results"), help="where the runs go")
    parser.add_argument("--output", type=Path, default=Path("RESULTS.md"), help="where the results go")
    parser.add_argument("--stale", action="store_true", help="take runs of other versions of the code too, and say so")
    parser.add_argument("--no-run", action="store_true", help="run nothing: write what the reports that are there say")
    arguments = parser.parse_args()
    # Here, so that the help waits for no torch.
    from lightning_losses.experiments.config.check_config import ConfigError, check_writable
    from lightning_losses.experiments.evidence.result_runs import EXPERIMENTS, SEEDS
    from lightning_losses.experiments.messages import message, refused

    names = arguments.experiments.split(",") if arguments.experiments else list(EXPERIMENTS)
    if unknown := [name for name in names if name not in EXPERIMENTS]:
        parser.error(f"there is no experiment {unknown[0]}; choose of {', '.join(EXPERIMENTS)}")
    try:
        seeds = [int(seed) for seed in arguments.seeds.split(",")] if arguments.seeds else list(SEEDS)
        for folder in (arguments.folder, arguments.output.parent):
            check_writable("--folder", folder)
    except ConfigError as error:
        parser.error(str(error))
    except ValueError:
        parser.error(f"--seeds {arguments.seeds} came; give whole numbers with commas between")
    try:
        return _run(arguments, names, seeds)
    except OSError as error:
        if not refused(error):
            raise
        print(f"Error: {message(error)}\nWhen that is mended, the same command goes on.", file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace, names: list[str], seeds: list[int]) -> int:
    from lightning_losses.experiments.evidence.result_pages import write
    from lightning_losses.experiments.evidence.result_runs import COMPARISONS, GROKKING, Runner, settings_of

    runner = Runner(
        arguments.folder,
        arguments.output,
        total=len([name for name in names if name in GROKKING]) * len(seeds),
        stale=arguments.stale,
        train=not arguments.no_run,
    )
    experiments, reports = {}, {}
    for name in (name for name in names if name in GROKKING):
        settings = {seed: settings_of(name, seed) for seed in seeds}
        experiments[name] = settings[seeds[0]]
        found = {seed: runner.grokking(name, settings[seed]) for seed in seeds}
        reports[name] = {seed: report for seed, report in found.items() if report is not None}
    comparisons = {name: runner.comparison(name) for name in names if name in COMPARISONS}
    if not any([*reports.values(), *comparisons.values()]):
        why = "every run broke" if runner.broken else f"{arguments.folder} holds no report of them"
        runner.console.print(f"Nothing was written about {', '.join(names)}: {why}.")
        return 1
    write(arguments.output, experiments, reports, seeds, comparisons, runner.old)
    runner.console.print(f"The results are in {arguments.output}")
    if runner.broken:
        runner.console.print(f"{len(runner.broken)} runs broke: {'; '.join(runner.broken)}")
    return 1 if runner.broken else 0


if __name__ == "__main__":
    sys.exit(main())
