"""Watches the features of mixed samples in the plane of three classes."""

from collections.abc import Sequence
from dataclasses import field

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.callbacks.monitors.probe import ProbeMonitor
from lightning_losses.plots.mixup_configuration import mixup_panels
from lightning_losses.plots.style import Figure


@torch.no_grad()
def classifier_plane(weight: Float[Tensor, "3 d"]) -> Float[Tensor, "d 2"]:
    """An orthonormal basis of the plane through three classifier rows; the first axis points at the first row.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> (rows @ classifier_plane(rows)).round(decimals=2)
        tensor([[ 0.8200,  0.0000],
                [-0.4100,  0.7100],
                [-0.4100, -0.7100]])
    """
    centred = weight.double() - weight.double().mean(dim=0)
    first = nn.functional.normalize(centred[0], dim=0)
    second = nn.functional.normalize(centred[1] - (centred[1] @ first) * first, dim=0)
    return torch.stack([first, second], dim=1).to(weight.dtype)


class MixupConfiguration(ProbeMonitor):
    """Logs how tightly mixed samples of one class cluster, and draws mixed features in the plane of three classes.

    With mixup, training does not end in the simplex of neural collapse: mixed samples of one class still gather at its
    corner, but those of two classes form channels along the decision boundary. Every probe row of one of the three
    classes is mixed with another such row, with shares spread evenly over (0, 1).

    Logs ``same``: the mean squared distance of the same-class mixtures' features from their class's mean, divided by
    that of the class means from their centre, in the plane; 0 if every mixture is at its class's corner. And
    ``different``: the same for the different-class mixtures, measured from their point on the line between the two
    means.

    Cost: a forward pass of the probe's rows of three classes, every n steps.

    Args:
        head: the name of the linear classifier; its inputs are the features.
        classes: three class indices.
        seed: seed of the pairs to mix, which are the same at every measurement.
        samples, ignore_index, every_n_steps, folder: see `ProbeMonitor`.

    Attributes:
        points: the last measurement, one row per mixture: two coordinates in the plane, the positions of its two
            classes among the three, and the share of the first.
        corners: the coordinates of the three class means.

    Raises:
        ValueError: not three different classes; a head that is not a linear layer; a probe without mixtures of one
            class and of two.

    Source:
        Fisher, Meng, Papyan, 2024, "Pushing Boundaries: Mixup's Influence on Neural Collapse", arXiv:2402.06171; the
        two numbers are ours.

    Example:
        >>> MixupConfiguration("network.head", classes=[0, 3, 5]).classes
        (0, 3, 5)
    """

    name = "mixup_configuration"
    samples = 1024
    kept = (*ProbeMonitor.kept, "points", "corners")

    head: str
    classes: Sequence[int] = (0, 1, 2)
    seed: int = 0
    points: Tensor | None = field(init=False, default=None)
    corners: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.classes)) != 3 or len(self.classes) != 3:
            raise ValueError(f"{self.name}: classes={list(self.classes)} came; give three different ones.")
        self.classes = tuple(int(index) for index in self.classes)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the head."""
        super().on_train_start(trainer, pl_module)
        found = dict(pl_module.named_modules()).get(self.head)
        if not isinstance(found, nn.Linear):
            raise ValueError(f"{self.name}: {self.head!r} is no linear layer of the module; name the classifier.")

    @torch.no_grad()
    def measure(
        self, trainer: L.Trainer, pl_module: L.LightningModule, inputs: Tensor, target: Tensor
    ) -> dict[str, float]:
        """The mixtures' features."""
        if target.is_floating_point():
            raise ValueError(
                f"{self.name}: a floating-point target came, and samples of one class each are mixed; give class "
                "indices."
            )
        known = torch.tensor(self.classes, device=target.device)
        kept = torch.isin(target, known)
        rows, place = inputs[kept], (target[kept].unsqueeze(1) == known).int().argmax(dim=1)
        generator = torch.Generator().manual_seed(self.seed)
        count = len(rows)
        partner = torch.randperm(count, generator=generator).to(target.device)
        share = ((torch.randperm(count, generator=generator) + 0.5) / max(count, 1)).to(rows)
        same, own = place == place[partner], torch.arange(count, device=target.device) == partner
        if int(place.bincount(minlength=3).count_nonzero()) < 3 or not bool((same & ~own).any()) or bool(same.all()):
            raise ValueError(
                f"{self.name}: the probe has {count} rows of the classes {list(self.classes)}, too few to mix; give "
                "more samples or a larger batch."
            )
        along = share.reshape(-1, *[1] * (rows.ndim - 1))
        head = pl_module.get_submodule(self.head)
        assert isinstance(head, nn.Linear)
        taken: list[Tensor] = []
        hook = head.register_forward_pre_hook(lambda part, given: taken.append(given[0].detach()))
        try:
            pl_module(torch.cat([rows, along * rows + (1 - along) * rows[partner]]))
        finally:
            hook.remove()
        plane = classifier_plane(head.weight[known])
        coordinates = (taken[0].flatten(1).float() @ plane.float()).double()
        plain, mixed = coordinates[:count], coordinates[count:]
        corners = torch.stack([plain[place == number].mean(dim=0) for number in range(3)])
        spread = (corners - corners.mean(dim=0)).square().sum(dim=1).mean()
        between = share.double().unsqueeze(1)
        away = (mixed - between * corners[place] - (1 - between) * corners[place[partner]]).square().sum(dim=1) / spread
        columns = [place, place[partner], share]
        self.points = torch.cat([mixed, torch.stack([column.double() for column in columns], dim=1)], dim=1)[~own].cpu()
        self.corners = corners.cpu()
        return {"same": away[same & ~own].mean().item(), "different": away[~same].mean().item()}

    def figure(self) -> Figure:
        """The last mixtures in the plane, and ``same`` and ``different`` over steps."""
        assert self.points is not None and self.corners is not None
        return mixup_panels(self.points.tolist(), self.corners.tolist(), self.classes, self.steps, self.values)
