"""Calibrate logits, or a checkpoint of the train recipe: a calibrator, a table, pictures.

    python recipes/calibrate.py logits=validation.npz                          # half to fit on, half to evaluate on
    python recipes/calibrate.py logits=val.csv test_logits=test.csv calibrator=dirichlet
    python recipes/calibrate.py checkpoint=outputs/2026-01-01/12-00-00/checkpoints/student/last.ckpt
    python recipes/calibrate.py -m logits=val.npz calibrator=temperature,vector,isotonic

Files are never unpickled. `--help` lists the choices and the whole configuration.
"""

from collections.abc import Sequence

from lightning_losses.experiments.launch import launch


def main(arguments: Sequence[str] | None = None, program: str | None = None) -> None:
    """Start with the overrides of the command line, or with these."""
    launch("calibrate", arguments, program)


if __name__ == "__main__":
    main()
