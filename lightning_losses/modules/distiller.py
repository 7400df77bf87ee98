"""Ready LightningModules for a student: with a frozen teacher, or with a peer that trains too."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightning_losses.mixins import DistillationMixin, OnlineDistillationMixin
from lightning_losses.modules.classifier import Classifier
from lightning_losses.objective import Objective


class Distiller(DistillationMixin, Classifier):
    """Trains a student with any objective; the teacher runs only if a term uses its output.

    Args:
        teacher: a frozen network, or None for objectives that need none; `lightning_losses.teachers` makes one from a
            timm name, a checkpoint or a cache of logits.
        teacher_layer: the layer of the teacher's features, if a term takes them; None is the last but one stage.
            Several layers, or "all" stages, for losses that take maps by layer.
        **classifier: see `Classifier`; `network` is the student.

    Example:
        >>> import torch
        >>> from lightning_losses import KD
        >>> student = Distiller(nn.Linear(4, 3), network=nn.Linear(4, 3), objective=Objective({"kd": KD()}),
        ...                     num_classes=3)
        >>> any("teacher" in name for name in student.state_dict())
        False
    """

    def __init__(
        self,
        teacher: nn.Module | None = None,
        teacher_layer: str | Sequence[str] | None = None,
        **classifier: Any,
    ) -> None:
        # First, because losses may take their shapes from the teacher's features.
        self.teacher = teacher
        self.teacher_layer = teacher_layer
        super().__init__(**classifier)


class OnlineDistiller(OnlineDistillationMixin, Classifier):
    """Trains a student and its peers together, each learning from the others (BD-KD, deep mutual learning).

    Validation and test measure the student.

    Args:
        peer: the second network; it trains too.
        peer_objective: the objective that each peer minimises.
        peers: any number of networks, instead of `peer` or in addition.
        **classifier: see `Classifier`; `network` is the student.

    Raises:
        ValueError: neither peer nor peers, or no objective for them.

    Example:
        >>> from lightning_losses import KD, CrossEntropy
        >>> mutual = Objective({"ce": CrossEntropy(), "kd": KD(temperature=1.0)})
        >>> pair = OnlineDistiller(nn.Linear(4, 3), mutual, network=nn.Linear(4, 3), objective=mutual, num_classes=3)
        >>> sorted(name for name in pair.state_dict() if "weight" in name)
        ['network.weight', 'peer.weight']
    """

    def __init__(
        self,
        peer: nn.Module | None = None,
        peer_objective: Objective | None = None,
        peers: Sequence[nn.Module] = (),
        **classifier: Any,
    ) -> None:
        super().__init__(**classifier)
        if (peer is None and not peers) or peer_objective is None:
            raise ValueError(
                f"{type(self).__name__}: give peer= or peers=, the networks that train beside the student, and "
                "peer_objective=, what they minimise."
            )
        if peer is not None:
            self.peer = peer
        if peers:
            self.peers = nn.ModuleList(peers)
        self.peer_objective = peer_objective
