"""How a run stops and goes on."""

from lightning_losses.checkpoints.atomic_checkpoints import AtomicCheckpoints as AtomicCheckpoints
from lightning_losses.checkpoints.epoch_seed import EpochSeed as EpochSeed
from lightning_losses.checkpoints.last_checkpoint import LastCheckpoint as LastCheckpoint
