"""Has a network adapt to the unlabelled batches that a Trainer evaluates it on."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, field
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn

from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.numerics.settings import NonNegative
from lightning_losses.test_time.adaptation import Adaptation, TestTimeMethod
from lightning_losses.test_time.normalisation import Statistics

_STAGES = ("test", "validate", "predict")


class TestTimeAdaptation(DeclaredCallback):
    """Has a network adapt to the unlabelled batches of ``trainer.test``, ``validate`` or ``predict``.

    Whenever the step calls the network, it gets the logits of the adapting one, from before that batch's step
    (`Adaptation`), so that what a module measures is how well the network does while it adapts. Afterwards the network
    is as it was. The step calls the network once for each batch. Within ``fit`` it stands before callbacks that put
    averaged weights in place.

    Args:
        method: a `TestTimeMethod`, such as `Tent`; None changes the statistics of batch normalisation alone.
        stages: of the Trainer, in which it adapts: "test", "validate" (within ``fit``, too) and "predict".
        network: the attribute of the LightningModule that holds the network; "" is the module itself, by its `forward`.
        each_loader: whether each of several loaders begins from the snapshot.
        episodic, statistics, source_samples, rank_local: see `Adaptation`.

    Attributes:
        run: the `Adaptation`, while there is one.

    Raises:
        ValueError: an unknown stage; a place behind a callback of averaged weights; a module without that attribute;
            what `Adaptation` refuses.

    Example:
        >>> from lightning_losses.test_time import Tent
        >>> TestTimeAdaptation(Tent(lr=1e-3)).stages
        ('test',)
    """

    # No test, though the name begins like one.
    __test__ = False
    name = "test_time_adaptation"

    method: TestTimeMethod | None = None
    _: KW_ONLY
    stages: Sequence[str] = ("test",)
    network: str = "network"
    each_loader: bool = False
    episodic: bool = False
    statistics: Statistics = "batch"
    source_samples: NonNegative = 16.0
    rank_local: bool = False
    run: Adaptation | None = field(init=False, default=None)
    _loader: int = field(init=False, default=0)
    _restored: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.stages, str) or not set(self.stages) <= set(_STAGES):
            raise ValueError(f"{self.name}: stages={self.stages!r} came; give a list of {', '.join(_STAGES)}.")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse to stand behind a callback that swaps weights, which would take adapted ones for its average."""
        if stage != "fit" or "validate" not in self.stages:
            return
        for callback in trainer.callbacks[: trainer.callbacks.index(self)]:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                raise ValueError(
                    f"{self.name}: it came behind {type(callback).__name__}, which swaps weights; give this callback "
                    "before that one."
                )

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin with the first batch, or go back to the snapshot, if another loader's batches begin."""
        self._batch("test", pl_module, dataloader_idx)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin with the first batch, or go back to the snapshot, if another loader's batches begin."""
        self._batch("validate", pl_module, dataloader_idx)

    def on_predict_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin with the first batch, or go back to the snapshot, if another loader's batches begin."""
        self._batch("predict", pl_module, dataloader_idx)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the network as it was."""
        self._end()

    on_validation_epoch_end = on_predict_epoch_end = on_test_epoch_end

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the network as it was."""
        self._end()

    def state_dict(self) -> dict[str, Any]:
        """The state of the adaptation, while there is one."""
        return {} if self.run is None else self.run.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there when the next adaptation begins."""
        self._restored = state_dict

    def _batch(self, stage: str, module: L.LightningModule, loader: int) -> None:
        # Not earlier: other callbacks give the module averaged weights as an epoch begins.
        if self.run is None and stage in self.stages:
            self._begin(module)
        elif self.run is not None and self.each_loader and loader != self._loader:
            self.run.reset()
        self._loader = loader

    def _begin(self, module: L.LightningModule) -> None:
        network = getattr(module, self.network, None) if self.network else module
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"{self.name}: {type(module).__name__} has no network named {self.network!r}; give the name of the "
                "attribute that holds it, or '' for the module itself."
            )
        settings = {name: getattr(self, name) for name in ("episodic", "statistics", "source_samples", "rank_local")}
        run = Adaptation(network, self.method, **settings)
        self.run = run.__enter__()
        if self._restored:
            run.load_state_dict(self._restored)
            self._restored = {}

    def _end(self) -> None:
        if self.run is not None:
            self.run.__exit__()
            self.run = None
