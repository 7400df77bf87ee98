"""Adaptive smoothing: an accurate and a robust classifier as one, mixed sample by sample by a gate."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.networks.calls import call, logits_of
from lightning_losses.networks.half_precision import buffers_in_full_precision
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.probabilities import full_precision, log_probabilities

# How many standard deviations from their mean the gate's outputs count in training, before they are normalised.
_CLAMP = 0.6


class Mixture(NamedTuple):
    """What an adaptively smoothed classifier says, and of what it is mixed.

    Attributes:
        log_probabilities: of the mixture.
        gate_score: γ; the share of the robust classifier is sigmoid(γ).
        accurate, robust: the two classifiers' log-probabilities.
    """

    log_probabilities: Float[Tensor, "batch classes"]
    gate_score: Float[Tensor, " batch"]
    accurate: Float[Tensor, "batch classes"]
    robust: Float[Tensor, "batch classes"]


class AdaptiveSmoothing(nn.Module):
    """An accurate and a robust classifier as one: ``log((1 - α) p_accurate + α p_robust)``, α sample by sample.

    α = sigmoid(γ). With a number as gate it is the same for all samples; -inf and inf are one classifier alone. A
    module is a gate that is trained, by `AdaptiveSmoothingClassifier`: it sees what both classifiers make of the
    inputs, its outputs are limited to 0.6 standard deviations around their mean in training, normalised by a
    `BatchNorm1d` of their own, and become ``γ = gate_scale x + gate_bias``. In evaluation α lies between `least` and
    `most`. The classifiers are frozen, and always in evaluation mode.

    Gradients by the inputs go through the gate. Attack through it when you report robust accuracy: to attack one
    classifier, or with the gate held fast, shows too much of it.

    Args:
        accurate, robust: the classifiers, with the same inputs and classes.
        gate: γ, or a module from [B, D] to [B] or [B, 1], where D is all that it sees of both.
        layers: the names of a layer of each classifier, whose outputs, averaged over all but their first two
            dimensions, the gate sees; None takes both classifiers' log-probabilities.
        accurate_scale, robust_scale: what their logits are multiplied with, above 0.
        gate_scale, gate_bias: see above; a module's alone.
        least, most: the range of α in evaluation, within [0, 1]; a module's alone.

    Shapes:
        inputs: as the classifiers take them; returns log-probabilities [B, C], which are logits too.

    Raises:
        ValueError: settings out of range; a layer that there is not; a gate that gives no number for each sample.

    Source:
        Bai, Anderson, Kim, Sojoudi, 2023, "Improving the Accuracy-Robustness Trade-Off of Classifiers via Adaptive
        Smoothing", arXiv:2301.12554, and their code, Bai-YT/AdaptiveSmoothing.

    Example:
        >>> sure, unsure = nn.Linear(1, 2, bias=False), nn.Linear(1, 2, bias=False)
        >>> with torch.no_grad():
        ...     _ = sure.weight.copy_(torch.tensor([[4.0], [0.0]])), unsure.weight.zero_()
        >>> AdaptiveSmoothing(sure, unsure, gate=0.0)(torch.ones(1, 1)).exp().round(decimals=3)
        tensor([[0.7410, 0.2590]])
    """

    def __init__(
        self,
        accurate: nn.Module,
        robust: nn.Module,
        gate: float | nn.Module = 0.0,
        layers: Sequence[str] | None = None,
        *,
        accurate_scale: float = 1.0,
        robust_scale: float = 1.0,
        gate_scale: float = 1.0,
        gate_bias: float = 0.0,
        least: float = 0.0,
        most: float = 1.0,
    ) -> None:
        super().__init__()
        who = "AdaptiveSmoothing"
        check_number(who, "accurate_scale", accurate_scale, above=0)
        check_number(who, "robust_scale", robust_scale, above=0)
        check_number(who, "gate_scale", gate_scale)
        check_number(who, "gate_bias", gate_bias)
        check_number(who, "least", least, least=0, most=1)
        check_number(who, "most", most, least=least, most=1)
        try:
            self.fixed = math.nan if isinstance(gate, nn.Module) else float(gate)
        except (TypeError, ValueError):
            self.fixed = math.nan
        if not isinstance(gate, nn.Module) and math.isnan(self.fixed):
            raise ValueError(f"{who}: gate={gate!r} came; give a number, -inf and inf among them, or a module.")
        if layers is not None and (isinstance(layers, str) or len(layers) != 2):
            raise ValueError(f"{who}: layers={layers!r} came; give the name of one layer of each classifier.")
        self.accurate, self.robust = accurate.requires_grad_(False), robust.requires_grad_(False)
        self.gate = gate if isinstance(gate, nn.Module) else None
        self.normalise = nn.BatchNorm1d(1, affine=False, momentum=0.01) if self.gate is not None else None
        self.scales, self.layers = (accurate_scale, robust_scale), layers
        self.gate_scale, self.gate_bias, self.least, self.most = gate_scale, gate_bias, least, most
        self.train(self.training)

    def train(self, mode: bool = True) -> "AdaptiveSmoothing":
        """Set the gate's mode; the classifiers stay in evaluation mode."""
        super().train(mode)
        self.accurate.eval()
        self.robust.eval()
        return self

    def mixture(self, inputs: Any) -> Mixture:
        """The mixture and its parts."""
        with self._seen() as seen:
            scores = [
                scale * full_precision(logits_of("AdaptiveSmoothing: a classifier", call(network, inputs)))
                for scale, network in zip(self.scales, (self.accurate, self.robust), strict=True)
            ]
        accurate, robust = map(log_probabilities, scores)
        if self.gate is None:
            gate_score = accurate.new_full(accurate.shape[:1], self.fixed)
            log_share, log_rest = _log_shares(gate_score)
        else:
            gate_score = self._gated(seen or [accurate, robust])
            log_share, log_rest = _log_shares(gate_score)
            if not self.training and (self.least, self.most) != (0.0, 1.0):
                log_share = _log_within(log_share, self.least, self.most)
                log_rest = _log_within(log_rest, 1 - self.most, 1 - self.least)
        mixed = _log_sum(accurate + log_rest.unsqueeze(-1), robust + log_share.unsqueeze(-1))
        return Mixture(mixed, gate_score, accurate, robust)

    def forward(self, *inputs: Any, **named: Any) -> Float[Tensor, "batch classes"]:
        """The log-probabilities of the mixture; keyword arguments are passed to the classifiers."""
        return self.mixture(inputs[0] if inputs else named).log_probabilities

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the module as torch does, but keep the gate's statistics out of half precision, where they'd stand."""
        with nullcontext() if self.normalise is None else buffers_in_full_precision(self.normalise):
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _gated(self, seen: Sequence[Tensor]) -> Float[Tensor, " batch"]:
        assert self.gate is not None and self.normalise is not None
        statistics = self.normalise.running_mean
        assert statistics is not None
        # Log-probabilities are in full precision, also where the gate is not.
        parameter = next(self.gate.parameters(), statistics)
        scores = self.gate(torch.cat([_pooled(one) for one in seen], dim=1).to(parameter.dtype)).to(statistics.dtype)
        if scores.shape not in ((len(seen[0]),), (len(seen[0]), 1)):
            raise ValueError(
                f"AdaptiveSmoothing: the gate gave shape {list(scores.shape)} for {len(seen[0])} samples; give a "
                "module with one number for each."
            )
        scores = scores.reshape(-1, 1)
        if self.training:
            if len(scores) == 1:
                raise ValueError(
                    "AdaptiveSmoothing: one sample came in training, whose gate is normalised by the batch; give at "
                    "least two, for example by drop_last=True."
                )
            middle, width = scores.detach().mean(), scores.detach().std()
            scores = scores.clamp(middle - _CLAMP * width, middle + _CLAMP * width)
        return full_precision(self.normalise(scores)).squeeze(1) * self.gate_scale + self.gate_bias

    @contextmanager
    def _seen(self) -> Iterator[list[Tensor]]:
        """Within this context the two layers' outputs come into the list."""
        seen: list[Tensor] = []
        handles = []
        for network, layer in zip((self.accurate, self.robust), self.layers or (), strict=False):
            try:
                part = network.get_submodule(layer)
            except AttributeError:
                raise ValueError(
                    f"AdaptiveSmoothing: layers names '{layer}', and {type(network).__name__} has no such layer; give "
                    "names as named_modules() has them."
                ) from None
            handles.append(part.register_forward_hook(lambda module, arguments, output: seen.append(output)))
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()


def _log_shares(gate_score: Float[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
    """``log sigmoid(γ)`` and ``log(1 - sigmoid(γ))``."""
    return nn.functional.logsigmoid(gate_score), nn.functional.logsigmoid(-gate_score)


def _log_within(log_share: Float[Tensor, " batch"], least: float, most: float) -> Float[Tensor, " batch"]:
    """``log(least + (most - least) share)``, with a gradient also where the share rounds to 0 or 1."""
    at_least, width = (math.log(part) if part > 0 else -math.inf for part in (least, most - least))
    return _log_sum(torch.full_like(log_share, at_least), log_share + width)


def _log_sum(one: Float[Tensor, "*shape"], other: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``log(e^one + e^other)``; -inf, with zero gradients, where both are."""
    # logaddexp of two -inf has a NaN gradient, which even a zero gradient from above would not stop.
    neither = torch.isneginf(one) & torch.isneginf(other)
    return torch.logaddexp(one.masked_fill(neither, 0.0), other.masked_fill(neither, 0.0)).masked_fill(
        neither, -torch.inf
    )


def _pooled(output: Tensor) -> Float[Tensor, "batch d"]:
    return output.flatten(2).mean(dim=2) if output.ndim > 2 else output
