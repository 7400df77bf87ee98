"""Connects a trainer's processes before training."""

import lightning as L


def connect_processes(trainer: L.Trainer) -> None:
    """Start a trainer's further processes, unless they run already, and connect all, as `fit` would do first.

    A later trainer of the same processes finds them connected. Forked processes belong to a fit and aren't started.

    Args:
        trainer: a trainer that isn't used for anything else.
    """
    trainer.strategy.connect(L.LightningModule())
    launcher = trainer.strategy.launcher
    if launcher is None:
        trainer.strategy.setup_environment()
    else:
        launcher.launch(trainer.strategy.setup_environment, trainer=trainer)
