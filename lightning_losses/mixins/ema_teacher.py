"""The mixin whose teacher is the moving average of the student itself."""

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_losses.environment.lightning_internals import attached_trainer
from lightning_losses.mixins.distillation import DistillationMixin
from lightning_losses.numerics.checks import check_choice, check_number
from lightning_losses.numerics.interpolation import interpolated
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.parallel.processes import total_of_all, whole_parameter, world_size

Buffers = Literal["copy", "average"]


class EMATeacherMixin(DistillationMixin):
    """Gives a LightningModule a teacher that is the exponential moving average of its own network.

    Call `start_ema_teacher` in the constructor. After each optimizer step (not after each batch if gradients are
    accumulated) every weight of the teacher becomes ``decay * teacher + (1 - decay) * network``. Like any teacher of
    `DistillationMixin` it is in evaluation mode, without gradients, and in neither `parameters` nor `state_dict`; the
    checkpoint stores it separately, so that a resumed training equals an uninterrupted one. Under DDP every process
    keeps the same average; under FSDP2 each process keeps the whole average, and gathers the network's weights for the
    update. The average of weights in half precision is kept and saved in float32: in half precision, rounding would
    undo small updates.

    Attributes:
        ema_decay: in [0, 1]; 0 makes the teacher the network of the step before.
        ema_warmup: let the decay of the t-th update be at most ``1 - 1 / (t + 1)``, to forget early weights.
        ema_buffers: "copy" takes the network's floating buffers (the statistics of batch norm) as they are, "average"
            averages them like weights; counters and masks of -inf are copied. With several processes the mean of their
            buffers is used.

    Source:
        Tarvainen, Valpola, 2017, "Mean teachers are better role models", arXiv:1703.01780: decay 0.99 at first and
        0.999 later, with this warm-up.

    Example:
        >>> import lightning
        >>> from lightning_losses import KD, Objective
        >>> class Student(EMATeacherMixin, lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = nn.Linear(4, 3)
        ...         self.objective = Objective({"kd": KD()})
        ...         self.start_ema_teacher("network", decay=0.9)
        ...     def training_step(self, batch, batch_idx):
        ...         inputs, target = batch
        ...         return self.apply_objective(inputs=inputs, logits=self.network(inputs), target=target)
        >>> student = Student()
        >>> student.training_step((torch.zeros(2, 4), torch.tensor([0, 1])), 0)["loss"].item()  # alike at first
        0.0
    """

    ema_decay: float
    ema_warmup: bool
    ema_buffers: Buffers

    def start_ema_teacher(
        self,
        network: str = "network",
        *,
        decay: float = 0.999,
        warmup: bool = True,
        buffers: Buffers = "copy",
        teacher: nn.Module | None = None,
    ) -> None:
        """Set the teacher to a copy of a submodule, and follow that submodule.

        Args:
            network: the submodule's name.
            decay: see `ema_decay`.
            warmup: see `ema_warmup`.
            buffers: see `ema_buffers`.
            teacher: the copy, if it was made before; by default it is made now.

        Raises:
            ValueError: settings out of range; a teacher that shares modules with the network, so that it can't differ.
        """
        check_number("ema_teacher", "decay", decay, least=0, most=1)
        check_choice("ema_teacher", "buffers", buffers, Buffers)
        self.ema_decay, self.ema_warmup, self.ema_buffers = decay, warmup, buffers
        followed = self.get_submodule(network)
        if teacher is not None and not set(followed.modules()).isdisjoint(teacher.modules()):
            raise ValueError(
                "ema_teacher: the teacher shares modules with the network that it averages; give a deep copy of it."
            )
        # A teacher that is already set keeps its record of which parameters required gradients.
        if teacher is None or teacher is not self.teacher:
            self.teacher = copy.deepcopy(followed) if teacher is None else teacher
        assert self._held_teacher is not None
        self._held_teacher.moves = True
        self.__dict__["_ema_state"] = {"network": network, "updates": 0, "step": None, "averages": {}}

    def on_train_start(self) -> None:
        """Remember the step at which training begins or continues."""
        super().on_train_start()
        self._ema["step"] = self.trainer.global_step

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Update the teacher, if the optimizer took a step."""
        super().on_train_batch_end(outputs, batch, batch_idx)
        self._follow()

    def objective_tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Update the teacher, if the module's own hook prevented that, and add its outputs."""
        self._follow()
        return super().objective_tensors(tensors)

    def _follow(self) -> None:
        trainer = attached_trainer(self)
        if trainer is None or not trainer.training:
            return
        before, self._ema["step"] = self._ema["step"], trainer.global_step
        if before is not None and before != trainer.global_step:
            self.update_ema_teacher()

    @torch.no_grad()
    def update_ema_teacher(self) -> None:
        """Move the teacher towards the network, once."""
        assert self.teacher is not None
        self._ema["updates"] += 1
        decay = self.ema_decay
        if self.ema_warmup:
            decay = min(decay, 1 - 1 / (self._ema["updates"] + 1))
        network = self.get_submodule(self._ema["network"])
        followed = dict(network.named_parameters())
        for name, parameter in self.teacher.named_parameters():
            self._move(name, parameter, whole_parameter(followed[name].detach()), 1 - decay)
        current = dict(network.named_buffers())
        for name, buffer in self.teacher.named_buffers():
            value = current[name]
            if buffer.is_floating_point() and world_size() > 1:
                value = total_of_all(value) / world_size()
            self._move(name, buffer, value, 1.0 if self.ema_buffers == "copy" else 1 - decay)

    def _move(self, name: str, tensor: Tensor, towards: Tensor, share: float) -> None:
        averages: dict[str, Tensor] = self._ema["averages"]
        average = averages.get(name, tensor) if _is_half(tensor) else tensor
        moved = interpolated(full_precision(average).to(tensor.device), towards, share)
        if _is_half(tensor):
            averages[name] = moved
        else:
            # A teacher converted to full precision is its own average; an older one would be stale later.
            averages.pop(name, None)
        tensor.copy_(moved)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the teacher."""
        super().on_save_checkpoint(checkpoint)
        if self.teacher is not None:
            self._follow()
            averages = self._ema["averages"]
            checkpoint["ema_teacher"] = {
                "updates": self._ema["updates"],
                "state_dict": {
                    name: averages.get(name, tensor).detach().to("cpu", copy=True)
                    for name, tensor in self.teacher.state_dict().items()
                },
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the teacher."""
        super().on_load_checkpoint(checkpoint)
        if (saved := checkpoint.get("ema_teacher")) and self.teacher is not None:
            weights = saved["state_dict"]
            self.teacher.load_state_dict(weights)
            self._ema["updates"] = saved["updates"]
            self._ema["averages"] = {
                name: weights[name].clone() for name, tensor in self.teacher.state_dict().items() if _is_half(tensor)
            }

    @property
    def _ema(self) -> dict[str, Any]:
        found: dict[str, Any] | None = self.__dict__.get("_ema_state")
        if found is None:
            raise ValueError(f"{type(self).__name__}: call start_ema_teacher in the constructor.")
        return found


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16)
