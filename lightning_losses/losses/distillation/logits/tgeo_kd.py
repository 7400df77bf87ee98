"""Trilateral distillation: a small network learns, for each sample, how to mix the teacher with the label."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from lightning_losses.losses.classification.cross_entropy import CrossEntropy
from lightning_losses.losses.kinds import TaughtLoss
from lightning_losses.numerics.checks import check_count, check_floating, check_number
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import full_precision, log_probabilities
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import check_shares, class_indices, labelled_rows, one_hot, pick, required_target
from lightning_losses.numerics.settings import Temperature


class TGeoKD(TaughtLoss):
    """Trilateral distillation: a small network learns, for each sample, how to mix the teacher with the label.

    ``α_i τ² KL(t || s) + (1 - α_i) CE``, with a fusion ratio α_i for each sample; the gradient goes to the logits and
    to the ratio. `lightning_losses.mixins.tgeo_kd.TGeoKDMixin` computes the ratios with a `FusionController`, which it
    trains through the student's own step (`tgeo_outer_loss`).

    Args:
        temperature: τ, above 0.

    Shapes:
        logits, teacher_logits: [..., C]; target: [...], or [..., C] probabilities, whose largest class is the label;
        ratio: [...], in [0, 1].

    Returns:
        A scalar, or [...] without reduction. Infinite where the target's class is masked in the student. Any other
        class that the student alone masks has probability e^-100 instead of 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; a temperature of 0 or less.

    Source:
        Hu, Li, Liu, Chen, Chen, Liu, 2024, "Less or More From Teacher: Exploiting Trilateral Geometry For Knowledge
        Distillation", arXiv:2312.15112, and its code Chengming0501/TGeo-KD. The controller's inputs are compared with
        the code; the loss and the outer step follow the paper.

    Example:
        >>> logits, target = torch.zeros(2, 3), torch.tensor([0, 1])
        >>> round(TGeoKD()(logits, logits, target, torch.tensor([1.0, 0.0])).item(), 4)  # half of log 3
        0.5493
    """

    status = "paper"
    evidence = "Chengming0501/TGeo-KD for the controller's inputs; its outer step does not train"

    temperature: Temperature = 1.5

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows classes"],
        target: Int[Tensor, "*rows"],
        ratio: Float[Tensor, "*rows"],
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        rows = self.pairs(logits, teacher_logits, required_target(self._identifier, target))
        check_floating(self._identifier, "ratio", ratio)
        if ratio.shape != logits.shape[:-1]:
            raise ValueError(
                f"{self._identifier}: a ratio of shape {list(ratio.shape)} came with logits of shape "
                f"{list(logits.shape)}; give one for each sample."
            )
        share = full_precision(ratio).to(rows.logits.dtype)
        if rows.kept is not None:
            share = share.masked_fill(~rows.kept, 0.0)
        check_shares(self._identifier, "ratio", share)
        log_t, log_s = (
            log_probabilities(self.widened(z), self.temperature) for z in (rows.teacher_logits, rows.logits)
        )
        taught = (self.temperature**2 * kl_divergence(log_t, log_s)).to(share.dtype)
        label = -pick(log_probabilities(rows.logits), class_indices(required_target(self._identifier, rows.target)))
        return reduce(share * taught + (1 - share) * label, self.reduction, rows.kept)


def tgeo_state(
    student: Float[Tensor, "rows classes"],
    teacher: Float[Tensor, "rows classes"],
    target: Int[Tensor, " rows"],
    class_means: Float[Tensor, "classes classes"],
) -> Float[Tensor, "rows state"]:
    """The controller's input for a sample: three predictions, its label, and their squared differences.

    ``[s, t, y, m, (m - s)², (y - s)², (t - s)², (t - y)², (m - y)²]``, each over the classes, with s the student's and
    t the teacher's probabilities, y the one-hot label, and m the teacher's mean prediction of the sample's class.
    """
    classes = student.shape[-1]
    if student.shape != teacher.shape or class_means.shape != (classes, classes) or len(target) != len(student):
        raise ValueError(
            f"tgeo_kd: probabilities of shapes {list(student.shape)} and {list(teacher.shape)} came with a target of "
            f"shape {list(target.shape)} and class means of shape {list(class_means.shape)}; give [N, C] twice, [N] "
            "and [C, C]."
        )
    label, mean = one_hot(target, student), class_means[target]
    apart = [(mean, student), (label, student), (teacher, student), (teacher, label), (mean, label)]
    return torch.cat([student, teacher, label, mean, *((a - b).square() for a, b in apart)], dim=-1)


class FusionController(nn.Module):
    """The network that gives each sample's fusion ratio, in (0, 1), from its `tgeo_state`.

    Args:
        num_classes: C, at least 1.

    Example:
        >>> FusionController(num_classes=3)(torch.zeros(4, 27)).shape
        torch.Size([4])
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        check_count("tgeo_kd", "num_classes", num_classes)
        self.layers = nn.Sequential(
            nn.Linear(9 * num_classes, 32), nn.LeakyReLU(), nn.Linear(32, 16), nn.LeakyReLU(), nn.Linear(16, 1)
        )

    def forward(self, state: Float[Tensor, "rows state"]) -> Float[Tensor, " rows"]:
        """The ratio of each sample."""
        ratio: Tensor = self.layers(state).squeeze(-1).sigmoid()
        return ratio


class LabelledBatch(NamedTuple):
    """A labelled batch, to train on or to evaluate on."""

    inputs: Float[Tensor, "rows ..."]
    target: Int[Tensor, " rows"]


def tgeo_outer_loss(
    network: nn.Module,
    controller: FusionController,
    train: LabelledBatch,
    teacher_logits: Float[Tensor, "rows classes"],
    class_means: Float[Tensor, "classes classes"],
    held_out: LabelledBatch,
    *,
    learning_rate: float,
    temperature: float = 1.5,
) -> Float[Tensor, ""]:
    """Cross-entropy on held-out samples after the student has taken one step on the controller's loss.

    The step is one of gradient descent, ``θ - η ∇ L(θ, α)``, on a copy of the weights. The result depends on the
    controller through this step, and its gradient with respect to the controller's weights is exact. Minimise it with
    an optimizer of the controller's own (the authors: Adam at 0.1, weight decay 0.05), alternating with the student's
    step on `TGeoKD`, where the ratio is constant. With several processes, average the controller's gradients.

    Args:
        network: the student, [rows, ...] to [rows, C]; neither its weights nor its buffers change.
        controller: the network that gives the ratios.
        train: the batch of the step; a sample whose target is -100 is ignored, here as in `held_out`.
        teacher_logits: [rows, C] of the teacher on the same batch.
        class_means: [C, C] the teacher's mean prediction of each class over the training set.
        held_out: the batch to evaluate on.
        learning_rate: η, at least 0.
        temperature: τ, above 0.

    Source:
        As `TGeoKD`, following the paper. The code detaches the ratios, so its controller does not learn, and applies
        the softmax twice in the outer loss; this does neither.

    Example:
        >>> student, controller = nn.Linear(4, 3), FusionController(num_classes=3)
        >>> batch = LabelledBatch(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
        >>> means = torch.full((3, 3), 1 / 3)
        >>> loss = tgeo_outer_loss(student, controller, batch, torch.randn(5, 3), means, batch, learning_rate=0.1)
        >>> loss.backward()
        >>> all(bool(p.grad.abs().sum() > 0) for p in controller.parameters()), student.weight.grad is None
        (True, True)
    """
    check_number("tgeo_kd", "learning_rate", learning_rate, least=0)
    # What is frozen takes no step.
    trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    weights = {name: weight.detach().requires_grad_() for name, weight in trained.items()}
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    logits = functional_call(network, {**weights, **buffers}, (train.inputs,))
    # Of an ignored sample any class will do.
    label = train.target.masked_fill(~labelled_rows(train.target), 0)
    state = tgeo_state(logits.detach().softmax(dim=-1), teacher_logits.detach().softmax(dim=-1), label, class_means)
    fused = TGeoKD(temperature=temperature)(logits, teacher_logits, train.target, controller(state))
    slopes = torch.autograd.grad(fused, list(weights.values()), create_graph=True, materialize_grads=True)
    stepped = {
        name: weight - learning_rate * slope for (name, weight), slope in zip(weights.items(), slopes, strict=True)
    }
    return CrossEntropy()(functional_call(network, {**stepped, **buffers}, (held_out.inputs,)), held_out.target)
