"""Carlini and Wagner's attack: the nearest input, by squared distance, that another class is told of."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.attacks.attack import Attack, gradient_by_inputs
from lightning_losses.attacks.losses import logit_margin
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.row_generator import Randomness
from lightning_losses.numerics.settings import Count, NonNegative, Positive

# How near to the ends of the range, as a share of it, inputs count as within, where the inverse of tanh is finite.
_WITHIN = 1e-6
# What the constant is multiplied with as long as a row has not been fooled.
_GROWTH = 10.0
# What it grows to at most: gradients times it are finite.
_LARGEST = 1e15


class Nearest(NamedTuple):
    """The nearest inputs so far that fool the network, and their squared distance; infinite where none does."""

    attacked: Float[Tensor, "rows ..."]
    distance: Float[Tensor, " rows"]

    def or_nearer(self, other: "Nearest") -> "Nearest":
        """Of each row the nearer one."""
        nearer = other.distance < self.distance
        shaped = nearer.view(-1, *[1] * (self.attacked.ndim - 1))
        return Nearest(
            torch.where(shaped, other.attacked, self.attacked), torch.where(nearer, other.distance, self.distance)
        )


class CWL2(Attack):
    """CW: the smallest change, in the L2 norm, after which another class leads, found by Adam on a penalty.

    ``min_w ||x'(w) - x||² + c max(z_y - max_{j != y} z_j, -κ)``, where ``x'(w) = low + (high - low) (tanh w + 1) / 2``
    stays in the bounds by itself; without bounds, x' = w. The nearest x' on the way that fools the network is returned,
    and the input as it is where none does. It has no ball: bound the distance afterwards.

    Args:
        c: the weight of the penalty, above 0; with a search, that of its beginning.
        kappa: κ, the margin of logits by which another class shall lead, at least 0; with one above 0, an input fools
            only if it leads by that much.
        steps: of Adam, at least 1.
        learning_rate: Adam's, above 0.
        search_steps: how many values of c are tried, by bisection for each row: smaller after success, larger after
            failure. Each costs `steps` passes.
        early_stop: whether all stop when the summed cost has risen after a tenth of the steps, as torchattacks does.
            Then a row depends on the others of its batch.
        bounds, mean, std, batch_norm, ignore_index, seed: see `Attack`.

    Shapes:
        inputs: [rows, ...]; target: [rows]; returns attacked inputs like `inputs`.

    Raises:
        ValueError: a setting outside its range; see also `Attack`.

    Source:
        Carlini, Wagner, 2017, "Towards Evaluating the Robustness of Neural Networks", arXiv:1608.04644. torchattacks
        has no κ in what counts as fooled, and takes the largest of 0 and the logits for the logit of a class; inputs at
        the ends of the range are moved in by a millionth of it, since it can't move them at all.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False)
        >>> network.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> CWL2(c=5.0, steps=200)(network, torch.tensor([[0.6, 0.4]]), torch.tensor([0])).round(decimals=2)
        tensor([[0.5000, 0.5000]])
    """

    name = "cw_l2"

    c: Positive = 1.0
    kappa: NonNegative = 0.0
    steps: Count = 50
    learning_rate: Positive = 0.01
    search_steps: Count = 1
    early_stop: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bounds is not None and not all(map(math.isfinite, self.bounds)):
            raise ValueError(f"{self.name}: bounds={self.bounds} came; give two finite numbers, or None.")

    def perturb(
        self,
        network: Callable[[Tensor], Float[Tensor, "rows classes"]],
        clean: Float[Tensor, "rows ..."],
        target: Int[Tensor, " rows"],
        kept: Bool[Tensor, " rows"],
        generator: Randomness,
    ) -> Float[Tensor, "rows ..."]:
        """Descend for each weight of the penalty."""
        far = clean.new_full((len(clean),), torch.inf)
        nearest, weight, low, high = Nearest(clean, far), torch.full_like(far, self.c), torch.zeros_like(far), far
        for _ in range(self.search_steps):
            ended = self._descend(network, clean, target, kept, weight)
            nearest, fooled = nearest.or_nearer(ended), ended.distance < torch.inf
            low, high = torch.where(fooled, low, weight), torch.where(fooled, weight, high)
            weight = torch.where(high < torch.inf, (low + high) / 2, low * _GROWTH).clamp(max=max(self.c, _LARGEST))
        broken = (nearest.distance < 0).view(-1, *[1] * (clean.ndim - 1))
        return nearest.attacked.masked_fill(broken, torch.nan)

    def _descend(
        self,
        network: Callable[[Tensor], Float[Tensor, "rows classes"]],
        clean: Float[Tensor, "rows ..."],
        target: Int[Tensor, " rows"],
        kept: Bool[Tensor, " rows"],
        weight: Float[Tensor, " rows"],
    ) -> Nearest:
        variable = self._to_variable(clean).requires_grad_()
        optimizer = torch.optim.Adam([variable], lr=self.learning_rate)
        # Half precision has no numbers as large as the weight: it joins after the network's backward pass.
        most = weight.amax()
        shares = kept * weight / most
        nearest, cost = Nearest(clean, torch.full_like(weight, torch.inf)), weight.new_full((), torch.inf)
        for step in range(self.steps):
            attacked = self._from_variable(variable)
            inputs = attacked.detach().requires_grad_()
            logits = network(inputs)
            margin = logit_margin(full_precision(logits).to(clean.dtype), target, logits)
            lead = margin.clamp(max=self.kappa)
            moved = inputs.detach() - clean
            distance = moved.flatten(1).square().sum(dim=1)
            above = 2 * moved - most * gradient_by_inputs(self.name, lead, inputs, shares)
            (variable.grad,) = torch.autograd.grad(attacked, variable, above)
            optimizer.step()
            nearest = nearest.or_nearer(Nearest(inputs.detach(), self._counted(distance, margin.detach())))
            if self.early_stop and step % max(self.steps // 10, 1) == 0:
                before, cost = cost, (distance - weight * lead.detach())[kept].sum()
                if cost > before:
                    break
        return nearest

    def _counted(self, distance: Float[Tensor, " rows"], margin: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """The distance where the network is fooled; else infinite; of NaN the least, so that it is told."""
        fooled = margin > 0 if self.kappa == 0 else margin >= self.kappa
        return torch.where(fooled, distance, torch.inf).masked_fill(margin.isnan(), -torch.inf)

    def _to_variable(self, inputs: Float[Tensor, "rows ..."]) -> Float[Tensor, "rows ..."]:
        if self.bounds is None:
            return inputs.clone()
        low, high = self.bounds
        return torch.atanh((2 * (inputs - low) / (high - low) - 1).clamp(-1 + _WITHIN, 1 - _WITHIN))

    def _from_variable(self, variable: Float[Tensor, "rows ..."]) -> Float[Tensor, "rows ..."]:
        if self.bounds is None:
            # Adam changes the variable in place.
            return variable.clone()
        low, high = self.bounds
        return low + (high - low) * (torch.tanh(variable) + 1) / 2
