"""A ready LightningModule for two networks that pick each other's samples."""

from typing import Any

from torch import nn

from lightning_losses.mixins.co_teaching import CoTeachingMixin, Schedule
from lightning_losses.modules.classifier import Classifier
from lightning_losses.objective import Objective


class CoTeacher(CoTeachingMixin, Classifier):
    """Trains two networks on noisy labels, each on the samples that have a small loss in the other.

    Validation and test measure the first.

    Args:
        peer: the second network, like the first but with weights of its own.
        peer_objective: what it minimises.
        forget_rate: the share of samples that is left out in the end, in [0, 1]; see `CoTeachingMixin`.
        gradual_epochs: the epochs over which the share grows.
        exponent: of its growth.
        schedule: "paper" or "code".
        **classifier: as `Classifier` takes them.

    Example:
        >>> from lightning_losses import CrossEntropy
        >>> objectives = [Objective({"ce": CrossEntropy()}) for _ in range(2)]
        >>> pair = CoTeacher(nn.Linear(4, 3), objectives[1], forget_rate=0.4, network=nn.Linear(4, 3),
        ...                  objective=objectives[0], num_classes=3)
        >>> sorted(name for name in pair.state_dict() if "weight" in name)
        ['network.weight', 'peer.weight']
    """

    def __init__(
        self,
        peer: nn.Module,
        peer_objective: Objective,
        forget_rate: float,
        gradual_epochs: int = 10,
        exponent: float = 1.0,
        schedule: Schedule = "paper",
        **classifier: Any,
    ) -> None:
        super().__init__(**classifier)
        self.peer = peer
        self.peer_objective = peer_objective
        self.start_co_teaching(forget_rate, gradual_epochs, exponent, schedule)
