"""Weight aligning: after a task is learnt, scales the new classes' weights to the size of the old ones."""

from dataclasses import field
from typing import NamedTuple

import lightning.pytorch as L
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.numerics.settings import Count


class AlignedWeight(NamedTuple):
    """The classifier's weight, and the factor of the new classes' rows."""

    weight: Float[Tensor, "classes dim"]
    gamma: Float[Tensor, ""]


def align_weight(weight: Float[Tensor, "classes dim"], new_classes: int) -> AlignedWeight:
    """Multiply the rows of the new classes, the last ones, by the ratio of the mean lengths of old and new rows.

    If rows have length 0, or there are no old or no new classes, the weight stays as it is.

    Args:
        weight: [old + new, D]; the bias is not part of it.
        new_classes: number of new classes, at least 0.

    Raises:
        ValueError: more new classes than there are classes.

    Source:
        Zhao, Xiao, Gan, Zhang, Xia, 2020, "Maintaining Discrimination and Fairness in Class Incremental Learning",
        arXiv:1911.07053, as re-implemented in LAMDA-CL/PyCIL.

    Example:
        >>> align_weight(torch.tensor([[3.0, 4.0], [0.0, 10.0]]), new_classes=1).weight
        tensor([[3., 4.],
                [0., 5.]])
    """
    _check_new_classes(weight, new_classes)
    if new_classes in (0, len(weight)):
        return AlignedWeight(weight.clone(), weight.new_ones(()))
    lengths = weight.norm(dim=1)
    old, new = lengths[:-new_classes].mean(), lengths[-new_classes:].mean()
    gamma = torch.where((old > 0) & (new > 0), old / torch.where(new > 0, new, 1.0), 1.0)
    return AlignedWeight(torch.cat([weight[:-new_classes], gamma * weight[-new_classes:]]), gamma)


def _check_new_classes(weight: Tensor, new_classes: int) -> None:
    if weight.ndim != 2 or not 0 <= new_classes <= len(weight):
        raise ValueError(
            f"weight_aligning: new_classes={new_classes} came with a weight of shape {list(weight.shape)}; give "
            "[classes, D] and at most as many new classes."
        )


class WeightAligning(DeclaredCallback):
    """Aligns a classifier's weight when training on a task with new classes ends.

    Train that task with ``(1 - λ) CE + λ KD(temperature=2)`` on the old classes' logits, with λ the share of old
    classes.

    Args:
        head: the name of the module's linear classifier, whose last rows are the new classes.
        new_classes: number of new classes of the task, at least 1.

    Raises:
        ValueError: when training begins, a module without such a linear layer.

    Example:
        >>> WeightAligning(head="network.head", new_classes=2).new_classes
        2
    """

    name = "weight_aligning"

    head: str
    new_classes: Count
    _done: bool = field(init=False, default=False)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check at the start that the head exists, and has so many classes."""
        _check_new_classes(self._linear(pl_module).weight, self.new_classes)
        self._done = False

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Align the head's weight after the last epoch, before its checkpoint is written."""
        ended = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        ended = ended or trainer.global_step == trainer.max_steps
        # A trainer that shall stop goes on until it has taken the least number of epochs and steps.
        enough = trainer.current_epoch + 1 >= (trainer.min_epochs or 0)
        enough = enough and trainer.global_step >= (trainer.min_steps or 0)
        if ended or (trainer.should_stop and enough):
            self.on_train_end(trainer, pl_module)

    @torch.no_grad()
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Align the head's weight however training ended, unless the last epoch's end did."""
        if self._done:
            return
        linear = self._linear(pl_module)
        linear.weight.copy_(align_weight(linear.weight, self.new_classes).weight)
        self._done = True

    def _linear(self, module: nn.Module) -> nn.Linear:
        found = dict(module.named_modules()).get(self.head)
        if not isinstance(found, nn.Linear):
            linears = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
            raise ValueError(
                f"weight_aligning: head={self.head!r} came; give one of the linear layers {', '.join(linears)}."
            )
        return found
