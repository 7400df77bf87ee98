"""The mixin in which student and teacher train together."""

from typing import Any

from torch import Tensor, nn

from lightning_losses.mixins.objective import ObjectiveMixin
from lightning_losses.objective import Objective


class OnlineDistillationMixin(ObjectiveMixin):
    """Trains a second network beside the student, each learning from the other: BD-KD, deep mutual learning.

    Set `self.peer`, the network that takes the teacher's part and trains too, and `self.peer_objective`. Both networks
    run once a step. The student minimises `objective` with the peer's logits as `teacher_logits`; the peer minimises
    `peer_objective` with the student's. Each sees the other detached, so that one backward pass of the sum gives each
    network its own gradient and nothing of the other's.

    Attributes:
        peer: the second network, a submodule like any other; it is trained and saved.
        peer_objective: what the peer minimises; for BD-KD and deep mutual learning, cross-entropy and `KD`.

    Example:
        >>> import lightning, torch
        >>> from lightning_losses import KD, CrossEntropy
        >>> class Pair(OnlineDistillationMixin, lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network, self.peer = nn.Linear(4, 3), nn.Linear(4, 3)
        ...         self.objective = Objective({"ce": CrossEntropy(), "kd": KD(1.0)})
        ...         self.peer_objective = Objective({"ce": CrossEntropy(), "kd": KD(1.0)})
        ...     def training_step(self, batch, batch_idx):
        ...         inputs, target = batch
        ...         return self.apply_objective(inputs=inputs, logits=self.network(inputs), target=target)
        >>> Pair().training_step((torch.zeros(2, 4), torch.tensor([0, 1])), 0)["peer_logits"].shape
        torch.Size([2, 3])
    """

    peer: nn.Module
    peer_objective: Objective

    def apply_objective(self, **tensors: Any) -> dict[str, Any]:
        """Evaluate both objectives, each network against the other's detached logits, and add them."""
        if "inputs" not in tensors or "logits" not in tensors:
            raise ValueError(
                f"{type(self).__name__}: online distillation needs 'inputs' (for the peer) and 'logits'; "
                f"the step offered {', '.join(map(repr, sorted(tensors)))}."
            )
        logits: Tensor = tensors["logits"]
        output = self.peer(tensors["inputs"])
        peer_logits: Tensor = output if isinstance(output, Tensor) else output.logits
        offered = self.objective_tensors(tensors)
        student = self.evaluate_objective(
            self.objective, "train/loss", {**offered, "teacher_logits": peer_logits.detach()}
        )
        peer = self.evaluate_objective(
            self.peer_objective,
            "train/peer_loss",
            {**offered, "logits": peer_logits, "teacher_logits": logits.detach()},
        )
        return {"loss": student + peer, **tensors, "peer_logits": peer_logits}
