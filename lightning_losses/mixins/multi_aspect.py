"""The mixin that splits one head into the classes and the answers to questions."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.mixins.objective import ObjectiveMixin


class AspectNetwork(nn.Module):
    """A network with outputs for classes, then for questions; in evaluation it gives those for the classes alone.

    Args:
        network: gives [B, C + M].
        num_classes: C.

    Example:
        >>> import torch
        >>> network = AspectNetwork(nn.Linear(4, 5), num_classes=3)
        >>> network(torch.zeros(2, 4)).shape, network.eval()(torch.zeros(2, 4)).shape
        (torch.Size([2, 5]), torch.Size([2, 3]))
    """

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes

    def forward(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch outputs"]:
        """All outputs in training, those of the classes in evaluation."""
        output: Tensor = self.network(inputs)
        return output if self.training else output[..., : self.num_classes]


class MultiAspectMixin(ObjectiveMixin):
    """Splits the step's `logits` into those of the classes and `aspect_logits`, the last M, for `MultiAspectKD`.

    M is the width of the step's `teacher_aspects`, which come with the batch: a multimodal language model's
    probabilities of the answer "yes" to M questions about the sample, computed beforehand. If the network is an
    `AspectNetwork`, validation and inference use the classes alone.

    Example:
        >>> import lightning, torch
        >>> from lightning_losses import CrossEntropy, MultiAspectKD, Objective
        >>> class Student(MultiAspectMixin, lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = AspectNetwork(nn.Linear(4, 5), num_classes=3)
        ...         self.objective = Objective({"ce": CrossEntropy(), "aspects": MultiAspectKD()})
        ...     def training_step(self, batch, batch_idx):
        ...         return self.apply_objective(logits=self.network(batch["inputs"]), **batch)
        >>> batch = {"inputs": torch.zeros(2, 4), "target": torch.tensor([0, 1]), "teacher_aspects": torch.ones(2, 2)}
        >>> Student().training_step(batch, 0)["logits"].shape
        torch.Size([2, 3])
    """

    def apply_objective(self, **tensors: Any) -> dict[str, Any]:
        """Split the logits, then evaluate the objective."""
        if self.objective.needs("aspect_logits") and "aspect_logits" not in tensors:
            if "teacher_aspects" not in tensors or "logits" not in tensors:
                raise ValueError(
                    f"{type(self).__name__}: splitting the head needs 'logits' and 'teacher_aspects'; the step offered "
                    f"{', '.join(map(repr, sorted(tensors)))}."
                )
            if any(isinstance(part, AspectNetwork) and not part.training for part in self.modules()):
                raise ValueError(
                    f"{type(self).__name__}: the objective takes 'aspect_logits', and an AspectNetwork in evaluation "
                    "mode gives the classes alone; evaluate another objective, or in training mode."
                )
            logits, aspects = tensors["logits"], tensors["teacher_aspects"].shape[-1]
            classes = logits.shape[-1] - aspects
            if classes < 1:
                raise ValueError(
                    f"{type(self).__name__}: {aspects} teacher_aspects came with {logits.shape[-1]} logits; the head "
                    "has the classes' outputs and then one for each question."
                )
            tensors = {**tensors, "logits": logits[..., :classes], "aspect_logits": logits[..., classes:]}
        return super().apply_objective(**tensors)
