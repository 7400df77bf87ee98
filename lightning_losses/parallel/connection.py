"""Connects a trainer's processes before it has anything to train."""

import lightning as L


def connect_processes(trainer: L.Trainer) -> None:
    """Start a trainer's further processes, unless somebody has, and connect all of them, as its `fit` would first.

    A later trainer of the same processes finds them connected. Forked ones, which belong to a fit, aren't started.

    Args:
        trainer: not to be used otherwise.
    """
    trainer.strategy.connect(L.LightningModule())
    launcher = trainer.strategy.launcher
    if launcher is None:
        trainer.strategy.setup_environment()
    else:
        launcher.launch(trainer.strategy.setup_environment, trainer=trainer)
