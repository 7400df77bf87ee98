"""The base of mixins whose losses take outputs of inner layers of the trained network."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.mixins.objective import ObjectiveMixin
from lightning_losses.networks.calls import call, in_evaluation, logits_of
from lightning_losses.teachers.feature_taps import FeatureTap, layers_to_tap, offered_features


class TappedFeatures(ObjectiveMixin):
    """Offers the outputs of tapped layers: the last one, pooled to [B, D], as `features`; all as `feature_maps`.

    The network has hooks only while a trainer uses the module.
    """

    def tap_features(
        self, network: nn.Module, layer: str | Sequence[str] | None = None, *, who: str | None = None
    ) -> None:
        """Tap layers of a network, in place of those that were tapped before.

        Args:
            network: the trained network, or a part of it.
            layer: the layer's name in the network; several names, which make `feature_maps` a mapping by layer; "all"
                for every stage; None for the last but one.
            who: the name that errors begin with.
        """
        who = who or f"{type(self).__name__}: feature_layer"
        if before := self.__dict__.get("_feature_tap"):
            before.close()
        # A layer that works in place would change what the one before it said.
        self.__dict__["_feature_tap"] = FeatureTap(network, layers_to_tap(network, layer, who), who, copies=True)

    def tapped_features(self) -> Float[Tensor, "batch features"]:
        """The output of the last tapped layer in the latest forward pass, pooled to one vector per sample."""
        tap: FeatureTap = self.__dict__["_feature_tap"]
        return offered_features(tap.latest())[0]

    def setup(self, stage: str) -> None:
        """Tap the network's layers, if the constructor chose some."""
        super().setup(stage)
        if tap := self.__dict__.get("_feature_tap"):
            tap.open()

    def teardown(self, stage: str) -> None:
        """Remove the hooks."""
        super().teardown(stage)
        if tap := self.__dict__.get("_feature_tap"):
            tap.close()

    @contextmanager
    def beside_the_batch(self) -> Iterator[None]:
        """Keep the outputs of the tapped layers for the batch."""
        tap: FeatureTap | None = self.__dict__.get("_feature_tap")
        with super().beside_the_batch(), nullcontext() if tap is None else tap.kept():
            yield

    def objective_tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Add tapped features, if the objective takes them."""
        tensors = super().objective_tensors(tensors)
        tap: FeatureTap | None = self.__dict__.get("_feature_tap")
        if tap is None or not (self.objective.needs("features") or self.objective.needs("feature_maps")):
            return tensors
        vectors, maps = offered_features(tap.latest())
        return {"features": vectors, "feature_maps": maps, **tensors}

    @torch.no_grad()
    def materialize_objective(self, network: nn.Module, inputs: Any) -> None:
        """Run example inputs once, to set the shapes of losses that take them from their features.

        Args:
            network: the network with the tapped layers; it returns logits.
            inputs: a batch of inputs, or a mapping by name.
        """
        with in_evaluation(network):
            logits = logits_of(type(self).__name__, call(network, inputs))
        index = torch.arange(len(logits), device=logits.device)
        example = {"inputs": inputs, "logits": logits, "target": index % logits.shape[-1], "index": index, "epoch": 0}
        example |= {"domain": 0 * index, "progress": 0.0}
        self.objective.materialize(**self.objective_tensors(example))
