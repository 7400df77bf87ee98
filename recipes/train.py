"""Train, calibrate, evaluate and report.

    python recipes/train.py                                            # distil a teacher into a student, on MNIST-5k
    python recipes/train.py experiment=distill objective=sinkd data=digits
    python recipes/train.py -m objective=kd,nkd,sinkd seed=0,1,2       # a sweep; teachers are trained once

`--help` lists the choices and the whole configuration.
"""

from collections.abc import Sequence

from lightning_losses.experiments.launch import launch


def main(arguments: Sequence[str] | None = None, program: str | None = None) -> None:
    """Start with the overrides of the command line, or with these."""
    launch("train", arguments, program)


if __name__ == "__main__":
    main()
