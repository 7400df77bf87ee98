"""Logs a batch's means so that those of an epoch are over all samples of all processes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning_losses.environment.lightning_internals import attached_trainer

if TYPE_CHECKING:
    import lightning as L
    from torch import Tensor


def log_means(
    module: "L.LightningModule", values: "Mapping[str, Tensor | float]", samples: float, **options: Any
) -> None:
    """Log means over samples; of an epoch Lightning then logs the sums over all batches and processes, divided.

    An epoch without samples logs nothing; on several processes, which must all log the same, it logs NaN.

    Args:
        module: whose hook runs.
        values: the means, finite where there are no samples too.
        samples: how many each is over, 0 or more; a batch without samples is ignored.
        **options: of ``LightningModule.log_dict``.
    """
    trainer = attached_trainer(module)
    if samples == 0 and (trainer is None or trainer.world_size == 1):
        return
    # Lightning averages the counts of processes too, and cuts whole numbers off at the point: 7 on two would be 3.
    module.log_dict(values, batch_size=float(samples), sync_dist=True, **options)  # type: ignore[arg-type]
