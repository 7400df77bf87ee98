"""ReAct: the energy after a layer's largest activations are clipped."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.numerics.settings import Bound, Temperature
from lightning_losses.out_of_distribution.base import OutOfDistributionScore, refuse_not_finite
from lightning_losses.out_of_distribution.measuring import Outputs, outputs_of
from lightning_losses.parallel.processes import rows_of_all


class ReAct(OutOfDistributionScore):
    """The energy of the logits that follow from clipped activations: ``T log Σ_c exp(z_c(min(h, κ)) / T)``.

    κ is a percentile of all entries of the layer's output for the fitted data, one number for all units. Inputs that
    are unlike the training data tend to activate a few units far beyond it, which makes their logits large; known
    inputs lose little. The activations should be at least 0, as after a ReLU.

    Args:
        layer: the name of the layer whose output is clipped, usually the last before the head.
        percentile: of the entries, from 0 to 100; 100 clips nothing that the fitted data have.
        temperature: T, above 0.

    Attributes:
        threshold: κ.

    Shapes:
        the layer's output: [B, ...]; the network's logits: [B, C]; returns [B].

    Raises:
        ValueError: a layer that the network lacks, does not run, or that returns no tensor; training features with NaN
            or inf; use before `fit`.

    Source:
        Sun, Guo, Li, 2021, "ReAct: Out-of-distribution Detection With Rectified Activations", arXiv:2111.12797. OpenOOD
        takes the percentile of validation data; `fit` takes that of the data it is given.

    Example:
        >>> network = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))
        >>> known = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> ReAct("0", percentile=50).fit(network, [(known, torch.tensor([0, 1]))]).threshold
        2.5
    """

    name = "react"
    learns: ClassVar[bool] = True

    layer: str
    percentile: Annotated[float, Bound(least=0, most=100)] = 90.0
    temperature: Temperature = 1.0
    threshold: float | None = field(init=False, default=None)
    _parts: list[Tensor] = field(init=False, default_factory=list)

    @property
    def read_layers(self) -> tuple[str, ...]:
        """The layer."""
        return (self.layer,)

    @property
    def fitted(self) -> bool:
        """Whether there is a threshold."""
        return self.threshold is not None

    def clear(self) -> None:
        """Forget the threshold."""
        self.threshold, self._parts = None, []

    def update(self, outputs: Outputs, target: Int[Tensor, " batch"]) -> None:
        """Keep a batch's entries."""
        self._parts.append(outputs.activations[self.layer].detach().flatten())

    def finish(self, device: torch.device) -> None:
        """Take the percentile of all processes' entries."""
        entries = torch.cat(rows_of_all(torch.cat(self._parts) if self._parts else torch.zeros(0, device=device)))
        refuse_not_finite(self.name, self.layer, entries)
        self.threshold, self._parts = _percentile(entries, self.percentile), []

    def score(self, network: nn.Module, inputs: Any, outputs: Outputs) -> Float[Tensor, " batch"]:
        """The energy of another pass, with the layer's output clipped."""
        assert self.threshold is not None
        with _clipped(network, self.layer, self.threshold):
            logits = outputs_of(network, inputs, who=self.name).logits
        return self.temperature * torch.logsumexp(logits / self.temperature, dim=1)


def _percentile(entries: Float[Tensor, " entries"], percentile: float) -> float:
    """Interpolated linearly; torch.quantile takes no more than 16 million entries."""
    place = percentile / 100 * (len(entries) - 1)
    low, high = (entries.kthvalue(min(int(place) + more, len(entries))).values.double() for more in (1, 2))
    return float(low + (high - low) * (place - int(place)))


@contextmanager
def _clipped(network: nn.Module, layer: str, most: float) -> Iterator[None]:
    def clip(module: nn.Module, arguments: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise ValueError(f"react: {layer} returned a {type(output).__name__}; name a layer that returns a tensor.")
        return output.clamp(max=most)

    handle = getattr(network, "_orig_mod", network).get_submodule(layer).register_forward_hook(clip)
    try:
        yield
    finally:
        handle.remove()
