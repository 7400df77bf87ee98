"""The mixin in which student and teachers train together."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_losses.mixins.objective import ObjectiveMixin, terms_that_learn
from lightning_losses.networks.calls import call, logits_of
from lightning_losses.objective import Objective, ObjectiveValue

# Tensors that belong to no single network; layers' weights are those of all networks, labels those of the target.
_OF_ANY = frozenset({"step", "epoch", "progress", "epoch_progress", "teacher_logits", "weights", "multi_hot"})


class OnlineDistillationMixin(ObjectiveMixin):
    """Trains further networks beside the student, each learning from all others: BD-KD, deep mutual learning.

    Set `self.peer`, or `self.peers` for several networks, which act as teachers and train too, and
    `self.peer_objective`. Every network runs once a step. The student minimises the mean of `objective` over the peers,
    each peer's logits being the `teacher_logits`. Each peer minimises the mean of `peer_objective` over all other
    networks. The other networks' logits are detached, so that one backward pass of the sum gives each network the
    gradient of its own loss alone. The mean is taken over the losses of pairs, not over the peers' predictions.

    Attributes:
        peer: the second network, a submodule like any other; it is trained and saved.
        peers: in its place, a `ModuleList` of networks.
        peer_objective: minimised by each peer; for BD-KD and deep mutual learning, cross-entropy and `KD`.

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
    peers: nn.ModuleList
    peer_objective: Objective

    def peer_networks(self) -> list[nn.Module]:
        """The networks that train beside the student."""
        found = [*getattr(self, "peers", []), *([self.peer] if hasattr(self, "peer") else [])]
        if not found:
            raise ValueError(f"{type(self).__name__}: online distillation needs a second network; set self.peer.")
        return found

    def peer_logits(self, tensors: Mapping[str, Any]) -> list[Tensor]:
        """The logits of the networks beside the student, for the step's inputs."""
        if "inputs" not in tensors or "logits" not in tensors:
            raise ValueError(
                f"{type(self).__name__}: online distillation needs 'inputs' (for the peer) and 'logits'; "
                f"the step offered {', '.join(map(repr, sorted(tensors)))}."
            )
        who = f"{type(self).__name__}: a peer"
        return [logits_of(who, call(peer, tensors["inputs"])) for peer in self.peer_networks()]

    def offered_to_all(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """The tensors offered to every network's objective; what is the student's alone must be the student's."""
        if learning := list(terms_that_learn(self.peer_objective)):
            raise ValueError(
                f"{type(self).__name__}: peer_objective's term {learning[0]!r} learns from training steps, of which "
                "only the student's objective is told; give peer_objective a loss that keeps nothing."
            )
        offered = self.objective_tensors(tensors)
        students = offered.keys() - tensors.keys() - _OF_ANY
        if taken := sorted(name for name in students if self.peer_objective.needs(name)):
            raise ValueError(
                f"{type(self).__name__}: peer_objective takes {', '.join(map(repr, taken))}, and there is only the "
                "student's; give it an objective of tensors that every network has."
            )
        return offered

    def apply_objective(self, **tensors: Any) -> dict[str, Any]:
        """Evaluate every network's objective against the others' detached logits, and add them."""
        peer_logits = self.peer_logits(tensors)
        everyone = [tensors["logits"], *peer_logits]
        offered = self.offered_to_all(tensors)
        losses = []
        for number, logits in enumerate(everyone):
            objective = self.objective if number == 0 else self.peer_objective
            others = [other.detach() for position, other in enumerate(everyone) if position != number]
            value = self._against_each(objective, {**offered, "logits": logits}, others)
            self.log_objective(self.log_name(_name(number, len(everyone))), value)
            losses.append(value.total)
        shown = {str(number): logits for number, logits in enumerate(peer_logits)}
        output = {
            "loss": _sum(losses),
            **tensors,
            "peer_logits": peer_logits[0] if len(peer_logits) == 1 else shown,
        }
        self.on_objective(output, offered)
        return output

    def _against_each(self, objective: Objective, tensors: dict[str, Any], others: Sequence[Tensor]) -> ObjectiveValue:
        """The mean of an objective's values against every other network."""
        # Without a teacher the value is the same for every peer.
        taught = others if objective.needs("teacher_logits") else others[:1]
        values = [self.objective_value(objective, {**tensors, "teacher_logits": other}) for other in taught]
        parts = {name: _sum([value.parts[name] for value in values]) / len(values) for name in values[0].parts}
        return values[0]._replace(total=_sum([value.total for value in values]) / len(values), parts=parts)


def _name(number: int, networks: int) -> str | None:
    """The name under which a network's loss is logged; the student's is that of the module."""
    if number == 0:
        return None
    return "peer_loss" if networks == 2 else f"peer_{number - 1}_loss"


def _sum(values: Sequence[Tensor]) -> Tensor:
    return sum(values[1:], values[0])
