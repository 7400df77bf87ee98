"""The engine of attacks that climb a loss by steps within a ball."""

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from lightning_losses.attacks.attack import Attack, gradient_by_inputs
from lightning_losses.attacks.balls import Norm, ascent_step, into_ball
from lightning_losses.numerics.row_generator import Randomness
from lightning_losses.numerics.settings import Count, NonNegative
from lightning_losses.parallel.sharding import is_sharded

Logits = Callable[[Tensor], Float[Tensor, "rows classes"]]


class Climbing(NamedTuple):
    """Rows on their way.

    Attributes:
        rows: their positions in the batch.
        attacked: where they are.
        clean: the centres of their balls.
        target: their classes.
        clean_logits: the network's logits of `clean`; without columns where nobody reads them.
    """

    rows: Int[Tensor, " rows"]
    attacked: Float[Tensor, "rows ..."]
    clean: Float[Tensor, "rows ..."]
    target: Int[Tensor, " rows"]
    clean_logits: Float[Tensor, "rows classes"]

    def only(self, chosen: Bool[Tensor, " rows"]) -> "Climbing":
        """The chosen rows."""
        return Climbing(*(tensor[chosen] for tensor in self))


class GradientAttack(Attack):
    """Base of the attacks that climb a loss by steps within a ball, from one or several starts.

    Each step costs a forward pass and a backward pass down to the inputs. Of several starts a row keeps the first end
    that fools the network, or else that of the largest loss, for which each start costs one more forward pass.

    Args:
        epsilon: the radius of the ball, at least 0, in units of the data before normalisation.
        norm: "linf", or "l2" over all numbers of a row.
        steps: how many, at least 1.
        restarts: how many starts, at least 1.
        stop_when_fooled: whether a row leaves the batch as soon as the network tells another class of it, and comes
            back as it was then; misclassified rows come back unchanged. For evaluation: it saves passes, but waits for
            the device in each step.
        bounds, mean, std, batch_norm, ignore_index, seed: see `Attack`.
    """

    epsilon: NonNegative = 8 / 255
    norm: Norm = "linf"
    steps: Count = 10
    restarts: Count = 1
    stop_when_fooled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stop_when_fooled and self.batch_norm == "train":
            raise ValueError(
                f"{self.name}: stop_when_fooled came with batch_norm='train', where rows that leave change the others; "
                "give batch_norm='eval'."
            )

    @abstractmethod
    def losses(
        self, logits: Float[Tensor, "rows classes"], climbing: Climbing, step: int, restart: int
    ) -> Float[Tensor, " rows"]:
        """What the rows climb in this step, from their logits in float64."""

    @abstractmethod
    def step_length(self, step: int) -> float:
        """The length of a step, by the norm."""

    @abstractmethod
    def start(self, clean: Float[Tensor, "rows ..."], generator: Randomness) -> Float[Tensor, "rows ..."]:
        """Where the steps begin: `clean` itself, or points near it, which need not be in the ball."""

    def compares(self) -> bool:
        """Whether `losses` reads the unattacked logits."""
        return False

    def check_module(self, network: nn.Module) -> None:
        """Refuse to let rows leave on some processes where all must call the network."""
        if self.stop_when_fooled and is_sharded(network):
            raise ValueError(
                f"{self.name}: stop_when_fooled came with a sharded network, whose processes must all call it as "
                "often; give stop_when_fooled=False."
            )

    def perturb(
        self,
        network: Logits,
        clean: Float[Tensor, "rows ..."],
        target: Int[Tensor, " rows"],
        kept: Bool[Tensor, " rows"],
        generator: Randomness,
    ) -> Float[Tensor, "rows ..."]:
        """Climb from every start."""
        clean_logits = clean.new_zeros(len(clean), 0)
        if self.compares() or self.stop_when_fooled:
            with torch.no_grad():
                clean_logits = network(clean)
        everywhere = Climbing(torch.arange(len(clean), device=clean.device), clean, clean, target, clean_logits)
        # Where the best is NaN it stays, so that it is told.
        broken = clean_logits.isnan().any(dim=-1)
        result = torch.where(_shaped(broken, clean), torch.nan, clean)
        best = torch.where(broken, torch.nan, clean.new_full((len(clean),), -torch.inf, dtype=torch.float64))
        running = kept & ~broken & ~_fooled(clean_logits, target) if self.stop_when_fooled else kept
        for restart in range(self.restarts):
            # For all rows, so that what is drawn does not depend on who is left.
            start = self._into_ball(self.start(clean, generator), clean)
            climbing = everywhere._replace(attacked=start)
            if self.stop_when_fooled:
                climbing = climbing.only(running)
                if not len(climbing.rows):
                    return result
            for step in range(self.steps):
                logits, gradient = self._gradient(network, climbing, kept, step, restart)
                if self.stop_when_fooled:
                    leaving = _fooled(logits, climbing.target)
                    gone = climbing.rows[leaving]
                    result[gone], running[gone] = climbing.attacked[leaving], False
                    climbing, gradient = climbing.only(~leaving), gradient[~leaving]
                    if not len(climbing.rows):
                        return result
                ascent = ascent_step(gradient, self.norm)
                moved = torch.add(climbing.attacked, ascent, alpha=self.step_length(step))
                climbing = climbing._replace(attacked=self._into_ball(moved, climbing.clean))
            if self.restarts == 1:
                return result.index_copy(0, climbing.rows, climbing.attacked)
            score = self._score(network, climbing, restart)
            before, broken = best[climbing.rows], score.isnan()
            better = (score > before) | broken
            ends = torch.where(_shaped(broken, clean), torch.nan, climbing.attacked)
            result[climbing.rows] = torch.where(_shaped(better, clean), ends, result[climbing.rows])
            best[climbing.rows] = torch.where(better, score, before)
            running = running & (best < torch.inf)
        return result

    def _gradient(
        self, network: Logits, climbing: Climbing, kept: Bool[Tensor, " all_rows"], step: int, restart: int
    ) -> tuple[Tensor, Tensor]:
        """Logits, and the loss's gradient by the inputs, up to a factor for each row."""
        inputs = climbing.attacked.detach().requires_grad_()
        logits = network(inputs)

        def losses(at: Tensor) -> Tensor:
            return self.losses(at, climbing, step, restart)

        return logits.detach(), input_gradient(self.name, logits, inputs, losses, kept[climbing.rows])

    def _score(self, network: Logits, climbing: Climbing, restart: int) -> Float[Tensor, " rows"]:
        """The loss at the end of the last step; infinite where the network is fooled."""
        with torch.no_grad():
            logits = network(climbing.attacked)
            losses = self.losses(logits.double(), climbing, self.steps - 1, restart)
        return losses.masked_fill(_fooled(logits, climbing.target), torch.inf)

    def _into_ball(self, inputs: Tensor, clean: Tensor) -> Tensor:
        return into_ball(inputs, clean, self.epsilon, self.norm, self.bounds)


def input_gradient(
    who: str,
    logits: Float[Tensor, "rows classes"],
    inputs: Float[Tensor, "rows ..."],
    losses: Callable[[Float[Tensor, "rows classes"]], Float[Tensor, " rows"]],
    kept: Bool[Tensor, " rows"] | None = None,
) -> Float[Tensor, "rows ..."]:
    """Each row's gradient of a loss by its inputs, up to a positive factor, by which it neither vanishes nor overflows.

    The loss's gradient by the logits is taken in float64, and scaled to a largest entry of 1 before it goes back
    through the network. So it needs no loss scaling in half precision, and no softmax saturates.

    Args:
        who: the name that errors begin with.
        logits: [rows, C] what the network made of `inputs`.
        inputs: [rows, ...] which require a gradient.
        losses: from logits in float64 to a value for each row.
        kept: [rows] whose losses count; None is all. Batch normalisation by the batch passes them on to other rows.

    Raises:
        ValueError: logits that don't depend on the inputs differentiably.

    Example:
        >>> x = torch.tensor([[100.0, 0.0]], requires_grad=True)
        >>> input_gradient("doc", x * 2.0, x, lambda z: torch.sigmoid(z[:, 0] - 300) )
        tensor([[2., 0.]])
    """
    at = logits.detach().double().requires_grad_()
    values = losses(at)
    if values.shape != logits.shape[:1] or not values.requires_grad:
        raise ValueError(
            f"{who}: the loss gave values of shape {list(values.shape)}, "
            f"{'with' if values.requires_grad else 'without'} gradient, for {len(logits)} rows of logits; give one "
            "value for each row, which depends on its logits."
        )
    (above,) = torch.autograd.grad(values.sum(), at)
    above = above / above.abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(above.dtype).tiny)
    if kept is not None:
        above = above.masked_fill(~kept.unsqueeze(-1), 0.0)
    gradient = gradient_by_inputs(who, logits, inputs, above.to(logits.dtype))
    # Where the network itself makes the NaN, for example by a mask, none may come back from it.
    broken = torch.where(values.detach().isnan(), torch.nan, 0.0).to(gradient.dtype)
    return gradient + _shaped(broken, gradient)


def _fooled(logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
    """Where another class is told; a row with NaN tells none."""
    return (logits.argmax(dim=-1) != target) & ~logits.isnan().any(dim=-1)


def _shaped(values: Shaped[Tensor, " rows"], like: Float[Tensor, "rows ..."]) -> Shaped[Tensor, "rows ..."]:
    return values.view(-1, *[1] * (like.ndim - 1))
