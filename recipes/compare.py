"""Compare objectives: train them with several seeds, and write tables, figures and tests of significance.

    python recipes/compare.py objectives=[ce,kd,nkd,sinkd,bdkd] seeds=5 data=mnist5k
    python recipes/compare.py objectives=[ce,kd,"warm KD: kd objective.terms.kd.loss.temperature=8"] data=digits
    python recipes/compare.py objectives=[ce,kd] learning_rates=[0.001,0.01,0.1] data=digits
    python recipes/compare.py comparison=distillation_digits

All settings of recipes/train.py can be given too, and apply to every run. Finished runs are kept: an interrupted
comparison continues when it is started again. `--help` lists the choices and the whole configuration.
"""

from collections.abc import Sequence

from lightning_losses.experiments.launch import launch


def main(arguments: Sequence[str] | None = None, program: str | None = None) -> None:
    """Start with the overrides of the command line, or with these."""
    launch("compare", arguments, program)


if __name__ == "__main__":
    main()
