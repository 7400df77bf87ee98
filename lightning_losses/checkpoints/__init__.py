"""How a run is interrupted and resumed.

`last_checkpoint` says when a checkpoint is written, `atomic_checkpoints` how it is written and read, `process_states`
and `epoch_seed` what it holds besides weights; `interruption` and `slurm` hear what asks a run to end, and `resumption`
finds where the next one goes on. What they take of Lightning's own is in `environment.lightning_internals`.
"""

from lightning_losses.checkpoints.atomic_checkpoints import AtomicCheckpoints as AtomicCheckpoints
from lightning_losses.checkpoints.epoch_seed import EpochSeed as EpochSeed
from lightning_losses.checkpoints.last_checkpoint import LastCheckpoint as LastCheckpoint
