"""The mixin that gives a network a second head, which alone learns from the teacher."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.environment.lightning_internals import attached_trainer
from lightning_losses.mixins.objective import ObjectiveMixin
from lightning_losses.numerics.checks import check_choice, check_count
from lightning_losses.objective import ObjectiveValue, Term
from lightning_losses.optim.gradient_alignment import aligned_gradients
from lightning_losses.parallel.processes import is_distributed_tensor, total_of_all, world_size

HeadKind = Literal["linear", "mlp"]


def auxiliary_classifier(features: int, num_classes: int, kind: HeadKind = "linear") -> nn.Module:
    """A second classifier: a linear layer, or one after a hidden layer of 200 units with dropout, batch norm and ReLU.

    Example:
        >>> auxiliary_classifier(8, 3)
        Linear(in_features=8, out_features=3, bias=True)
    """
    check_choice("dual_head", "kind", kind, HeadKind)
    check_count("dual_head", "num_classes", num_classes)
    if kind == "linear":
        return nn.Linear(features, num_classes)
    return nn.Sequential(
        nn.Linear(features, 200), nn.Dropout(0.1), nn.BatchNorm1d(200), nn.ReLU(), nn.Linear(200, num_classes)
    )


class DualHeadMixin(ObjectiveMixin):
    """Gives a network a second head on the same features, and offers its output as `auxiliary_logits`.

    Call `add_auxiliary_head` in the constructor, and let a loss take this output in place of the logits:
    ``Term(BinaryKLNorm(), inputs={"logits": "auxiliary_logits"})``. The network's own head then learns from the labels
    alone, the second head from the teacher alone, and the layers before them from both. The second head runs in
    training only and is not part of the network: it is trained and saved with the module.

    Source:
        Yang, Zong, Huang, Feng, An, 2024, "Dual-Head Knowledge Distillation: Enhancing Logits Utilization with an
        Auxiliary Head", arXiv:2411.08937, and its code penghui-yang/DHKD: binary_kl_norm at temperature 2, weight 1
        (CIFAR) or 0.1 (ImageNet).

    Example:
        >>> import lightning, torch
        >>> from lightning_losses import BinaryKLNorm, CrossEntropy, DistillationMixin, Objective, Term
        >>> class Student(DualHeadMixin, DistillationMixin, lightning.LightningModule):
        ...     def __init__(self, teacher):
        ...         super().__init__()
        ...         self.network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        ...         self.teacher = teacher
        ...         self.objective = Objective({
        ...             "ce": CrossEntropy(),
        ...             "aux": Term(BinaryKLNorm(), inputs={"logits": "auxiliary_logits"}),
        ...         })
        ...         self.add_auxiliary_head(self.network, "2", nn.Linear(8, 3))
        ...     def training_step(self, batch, batch_idx):
        ...         inputs, target = batch
        ...         return self.apply_objective(inputs=inputs, logits=self.network(inputs), target=target)
        >>> loss = Student(nn.Linear(4, 3)).training_step((torch.zeros(2, 4), torch.tensor([0, 1])), 0)["loss"]
        >>> loss.shape
        torch.Size([])
    """

    auxiliary_head: nn.Module
    align_gradients: bool = False

    def add_auxiliary_head(self, network: nn.Module, head: str, auxiliary_head: nn.Module) -> None:
        """Set the second head, on the input of the network's layer of this name.

        Raises:
            ValueError: a layer that the network lacks.
        """
        layers = dict(network.named_modules())
        if head not in layers:
            raise ValueError(
                f"dual_head: head={head!r} came; give one of {', '.join(name for name in layers if name)}."
            )
        self.auxiliary_head = auxiliary_head
        self.__dict__["_head_input"] = kept = _KeepInput()
        layers[head].register_forward_pre_hook(kept)

    def aligned_step(self, **tensors: Any) -> dict[str, Any]:
        """Evaluate the objective, align the gradients of its two sides, and take the optimizer's step."""
        if self.objective.balancing is not None:
            raise ValueError(
                f"{type(self).__name__}: gradient alignment balances the terms itself; give an objective without "
                "balancing=."
            )
        offered = self.objective_tensors(tensors)
        value = self.objective_value(self.objective, offered)
        self.log_objective(self.log_name(), value)
        output = {"loss": value.total, **tensors}
        self.on_objective(output, offered)
        if attached_trainer(self) is None:
            return output
        optimizer: Any = self.optimizers()
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        for parameter, gradient in zip(parameters, self.aligned_gradients(value, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
        self.log_finished_means()
        if (scheduler := self.lr_schedulers()) is not None:
            scheduler.step()  # type: ignore[union-attr]
        return {**output, "loss": value.total.detach()}

    def aligned_gradients(self, value: ObjectiveValue, parameters: Sequence[Tensor]) -> list[Float[Tensor, "..."]]:
        """The step's gradient: the gradient of terms on `auxiliary_logits` loses its component against the others.

        Raises:
            ValueError: parameters that are sharded; an objective without terms on one of the sides.
        """
        if any(is_distributed_tensor(parameter) for parameter in parameters):
            raise ValueError(f"{type(self).__name__}: gradient alignment needs whole gradients; use DDP, not FSDP2.")
        sides: dict[bool, list[Tensor]] = {True: [], False: []}
        for name, term in self.objective.terms.items():
            assert isinstance(term, Term)
            sides["auxiliary_logits" in term.needs].append(value.weights[name] * value.parts[name])
        if not sides[True] or not sides[False]:
            raise ValueError(
                f"{type(self).__name__}: gradient alignment needs terms with and without 'auxiliary_logits'; the "
                f"objective has {', '.join(self.objective.terms)}."
            )
        # The scaler of float16 AMP divides by its scale before the step.
        scaler = getattr(getattr(attached_trainer(self), "precision_plugin", None), "scaler", None)
        scaled = (lambda loss: loss) if scaler is None else scaler.scale
        main, auxiliary = (
            # Averaged before the comparison, so that all processes take the same step.
            [
                total_of_all(gradient) / world_size()
                for gradient in torch.autograd.grad(
                    scaled(torch.stack(sides[side]).sum()),
                    list(parameters),
                    retain_graph=not side,
                    materialize_grads=True,
                )
            ]
            for side in (False, True)
        )
        return aligned_gradients(main, auxiliary)

    @contextmanager
    def beside_the_batch(self) -> Iterator[None]:
        """Keep the head's input for the batch."""
        kept: _KeepInput | None = self.__dict__.get("_head_input")
        before = None if kept is None else kept.value
        try:
            with super().beside_the_batch():
                yield
        finally:
            if kept is not None:
                kept.value = before

    def objective_tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Add the second head's logits, if the objective takes them."""
        tensors = super().objective_tensors(tensors)
        if self.objective.needs("auxiliary_logits") and "auxiliary_logits" not in tensors:
            kept: _KeepInput | None = self.__dict__.get("_head_input")
            if kept is None or kept.value is None:
                raise ValueError(
                    f"{type(self).__name__}: the objective takes 'auxiliary_logits'; call add_auxiliary_head in the "
                    "constructor, and the network before apply_objective."
                )
            tensors["auxiliary_logits"] = self.auxiliary_head(kept.value)
            # Used once per forward pass, so that the graph is freed after the step.
            kept.value = None
        return tensors


class _KeepInput:
    """A hook that can be copied and pickled with the network, unlike a closure."""

    def __init__(self) -> None:
        self.value: Float[Tensor, "batch features"] | None = None

    def __reduce__(self) -> Any:
        # A copy begins without: what belongs to a graph can't be copied.
        return _KeepInput, ()

    def __call__(self, module: nn.Module, arguments: Any) -> None:
        # Evaluation doesn't need it, and would keep it in memory.
        self.value = arguments[0] if module.training else None
