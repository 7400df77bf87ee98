"""Records the hidden states of an evaluation, with the tokens that followed, for kNN-LM."""

from contextlib import ExitStack
from dataclasses import field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_losses.callbacks.access import refuse_unwritable
from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.decoding.datastore import Datastore
from lightning_losses.decoding.layer_input import LayerInput, layer_input
from lightning_losses.parallel.processes import rows_of_all


class DatastoreRecord(DeclaredCallback):
    """Makes a `Datastore` of a validation or test: of each token, what a layer was fed, and the token that followed.

    Give the trainer's `validate` the texts to remember, such as those of training::

        record = DatastoreRecord()
        Trainer(callbacks=[record]).validate(model, texts_to_remember)
        knn = KNNLM(model.network, record.datastore)

    Its module is a `LanguageModel`, or any whose steps return the `target` of the tokens in the order of the layer's.
    All processes get the whole datastore; a distributed sampler that repeats rows repeats their keys.

    Cost: keys of every token in the memory of each process, 4 D bytes each (2 D with ``half``).

    Args:
        layer: the layer's name in the module; None: the last feed-forward layer.
        path: a safetensors file to write; the first process does.
        half: keep the keys in float16.
        ignore_index: tokens with this target are left out.

    Attributes:
        datastore: of the latest evaluation; None before.

    Raises:
        ValueError: a layer that the module lacks, or whose input has other tokens than the targets; no targets.

    Source:
        Khandelwal et al., 2020, "Generalization through Memorization: Nearest Neighbor Language Models",
        arXiv:1911.00172.

    Example:
        >>> DatastoreRecord(layer="network.blocks.3.perceptron_in").datastore is None
        True
    """

    name = "datastore_record"

    layer: str | None = None
    path: str | Path | None = None
    half: bool = False
    ignore_index: int = -100
    datastore: Datastore | None = field(init=False, default=None)
    _rows: list[tuple[Tensor, Tensor]] = field(init=False, default_factory=list)
    _open: ExitStack | None = field(init=False, default=None)
    _given: LayerInput | None = field(init=False, default=None)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a file that can't be written before anything is computed."""
        if self.path is not None:
            refuse_unwritable(trainer, Path(self.path).parent)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to listen."""
        self._close()
        self._open = ExitStack()
        self._given = self._open.enter_context(layer_input(self.name, pl_module, self.layer))

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Keep the batch's."""
        target = outputs.get("target") if isinstance(outputs, dict) else None
        keys = self._given.value if self._given is not None else None
        if not isinstance(target, Tensor) or keys is None or keys.shape[:-1] != target.shape:
            came = None if keys is None else list(keys.shape)
            raise ValueError(
                f"{self.name}: the layer was fed {came}, and the step returned a target of "
                f"{list(target.shape) if isinstance(target, Tensor) else None}; let the step return its target [B, T], "
                "and choose a layer with an input [B, T, D]."
            )
        kept = target != self.ignore_index
        keys = keys[kept]
        self._rows.append((keys.half() if self.half else keys.float(), target[kept]))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make the datastore of all processes' rows."""
        rows = self._rows
        self._close()
        if not rows:
            return
        keys, values = (torch.cat(rows_of_all(torch.cat(part))) for part in zip(*rows, strict=True))
        if len(keys) == 0:
            raise ValueError(f"{self.name}: every target is ignore_index={self.ignore_index}; give texts with targets.")
        self.datastore = Datastore(keys, values.long())
        if self.path is not None and trainer.is_global_zero:
            self.datastore.save(self.path)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to listen."""
        self.on_validation_start(trainer, pl_module)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Keep the batch's."""
        self.on_validation_batch_end(trainer, pl_module, outputs, batch)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make the datastore of all processes' rows."""
        self.on_validation_end(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Stop listening."""
        self._close()

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open = self._given = None
        self._rows = []
