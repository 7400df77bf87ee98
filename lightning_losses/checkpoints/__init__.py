"""Interrupts and resumes runs.

`last_checkpoint` decides when a checkpoint is written; `atomic_checkpoints` writes and reads it; `process_states` and
`epoch_seed` add state besides weights. `interruption` and `slurm` receive the signals that end a run, and `resumption`
finds the checkpoint from which the next run continues. Their access to private parts of Lightning is in
`environment.lightning_internals`.
"""

from lightning_losses.checkpoints.atomic_checkpoints import AtomicCheckpoints as AtomicCheckpoints
from lightning_losses.checkpoints.epoch_seed import EpochSeed as EpochSeed
from lightning_losses.checkpoints.last_checkpoint import LastCheckpoint as LastCheckpoint
