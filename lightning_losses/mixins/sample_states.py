"""One state for each training sample: the rows of losses that remember, found by the samples' `index`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from lightning_losses.environment.machine import host_memory
from lightning_losses.environment.repeated_batch import read_once
from lightning_losses.losses.sample_memory import Columns, Kept, RememberingLoss, SampleMemory
from lightning_losses.mixins.training_means import TrainingMeans
from lightning_losses.objective import Objective, Term
from lightning_losses.parallel.processes import gather_batch
from lightning_losses.teachers.cached_logits import check_positions

# What a column grows by at least; the largest index comes early in a shuffled epoch.
_GROWTH = 1 / 8


class SampleState:
    """Named columns with a row for each training sample, which grow as samples come.

    Args:
        name: what errors begin with.

    Attributes:
        columns: the rows, by name.
        size: how many rows are in use: the largest index that came, and 1.

    Example:
        >>> state, index = SampleState("demo"), torch.tensor([2, 2])
        >>> state.reserve(index, {"visits": torch.tensor(0.0)}, torch.device("cpu"))
        >>> state.write(index, {"visits": torch.tensor([1.0, 2.0])})
        >>> state.columns["visits"][: state.size]
        tensor([0., 0., 2.])
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.columns: Columns = {}
        self.size = 0

    def reserve(self, index: Int[Tensor, " batch"], fresh: Columns, device: torch.device) -> None:
        """Have a row for each of these samples; one that is new is the fresh row.

        Raises:
            ValueError: positions below 0, or so large that their rows have no room in the machine's memory; rows of
                another shape than those before.
        """
        check_positions(self.name, index)
        size = max(self.size, int(index.max()) + 1 if len(index) else 0)
        if size * sum(row.nbytes for row in fresh.values()) > host_memory():
            raise ValueError(
                f"{self.name}: index holds {size - 1}, and the machine has no memory for so many samples' rows; give "
                "the samples' positions in their data set, which count from 0."
            )
        self.size = size
        for column, row in fresh.items():
            rows = self.columns.get(column)
            if rows is None:
                rows = row.new_zeros(0, *row.shape, device=device)
            if rows.shape[1:] != row.shape:
                raise ValueError(
                    f"{self.name}: rows of shape {list(row.shape)} came, and of other samples rows of shape "
                    f"{list(rows.shape[1:])} are kept; give every sample the same shape, and a checkpoint to the "
                    "network that it is of."
                )
            if len(rows) < self.size:
                more = max(self.size, int(len(rows) * (1 + _GROWTH))) - len(rows)
                rows = torch.cat([rows.to(device), row.to(rows.dtype).to(device).expand(more, *row.shape)])
            self.columns[column] = rows.to(device)

    def write(self, index: Int[Tensor, " batch"], rows: Mapping[str, Shaped[Tensor, "batch ..."]]) -> None:
        """Write rows of these samples; of a repeated index the last stays, and what is not a number is left out.

        Args:
            index: positions that are reserved.
            rows: of some columns, or of all.
        """
        index = index.cpu()
        sound = torch.ones(len(index), dtype=torch.bool)
        for given in rows.values():
            # It would spoil every later step of its sample; minus infinity is a masked class.
            sound &= (given.unsqueeze(-1).flatten(1) < torch.inf).all(dim=-1).cpu()
        place = sound.nonzero().squeeze(-1)
        place = place[_last_of_each(index[place])]
        for column, given in rows.items():
            held = self.columns[column]
            held[index[place].to(held.device)] = given.detach()[place.to(given.device)].to(held)

    def state_dict(self) -> Columns:
        """The rows in use, on the host."""
        # They are written in place.
        return {column: rows[: self.size].to("cpu", copy=True) for column, rows in self.columns.items()}

    def load_state_dict(self, columns: Columns) -> None:
        """Take over rows."""
        self.columns = {column: rows.to("cpu", copy=True) for column, rows in columns.items()}
        self.size = max((len(rows) for rows in columns.values()), default=0)


class Remembered(NamedTuple):
    """A memory of an objective.

    Attributes:
        memory: what is kept, and what a step is told of it.
        term: whose loss keeps it; None where it is fed with the step's tensors as they are.
    """

    memory: SampleMemory
    term: Term | None = None

    def given(self, who: str, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """The step's tensors under the names by which the memory takes them."""
        return _Offered(who, tensors if self.term is None else {**tensors, **self.term.given(tensors)})


class _Offered(dict[str, Any]):
    """A step's tensors; one that it lacks is an error of one sentence."""

    def __init__(self, who: str, tensors: Mapping[str, Any]) -> None:
        super().__init__(tensors)
        self.who = who

    def __missing__(self, name: str) -> Any:
        raise ValueError(
            f"{self.who}: what is kept of samples is made of the step's '{name}'; the step offered "
            f"{', '.join(map(repr, sorted(self)))}; give apply_objective {name}=..., or train by a Trainer, which "
            "tells the epoch."
        )


class SampleStates(TrainingMeans):
    """Gives an objective what was kept of the batch's samples, and keeps what its losses remember of them.

    Each process has every row: after a step, the rows of all processes are written on all of them. Nothing is written
    outside of training, where the samples of another data set have the same positions: there each sample is as one
    that was never seen. The rows are in the checkpoint.

    A row is found by the sample's position in its data set, the step's `index` [B]; rows grow as positions come.
    """

    objective: Objective

    @property
    def sample_states(self) -> dict[str, SampleState]:
        """What is kept, by the name of the tensor that steps are told."""
        states: dict[str, SampleState] = self.__dict__.setdefault("_sample_states", {})
        return states

    def sample_memories(self) -> dict[str, Remembered]:
        """What the objective remembers of samples, by the name of the tensor that it is told.

        Raises:
            ValueError: two terms that remember under one name.
        """
        memories: dict[str, Remembered] = {}
        for name, term in getattr(self.objective, "terms", {}).items():
            if isinstance(term, Term) and isinstance(term.loss, RememberingLoss):
                told = term.source(term.loss.remembers)
                if told in memories:
                    raise ValueError(
                        f"{type(self).__name__}: two terms remember '{told}' of each sample, the second is '{name}'; "
                        f"give it a name of its own: Term(loss, inputs={{'{term.loss.remembers}': '{told}_2'}})."
                    )
                memories[told] = Remembered(term.loss, term)
        return memories

    def recalled(self, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
        """What was kept of the batch's samples, under the names by which the objective is told.

        Raises:
            ValueError: a training step without the samples' `index`, or with another number of them.
        """
        told: dict[str, Tensor] = {}
        for name, remembered in self.sample_memories().items():
            if name not in tensors:
                given = remembered.given(type(self).__name__, tensors)
                told[name] = remembered.memory.recall(self._rows(name, remembered, tensors), given)
        return told

    def remember_samples(self, tensors: Mapping[str, Any]) -> None:
        """After a training step, keep what is remembered of its samples, on every process."""
        if self.evaluates or not torch.is_grad_enabled():
            return
        with torch.no_grad():
            for name, remembered in self.sample_memories().items():
                # Who gives it to the step keeps it too.
                if name in tensors:
                    continue
                kept, given = self._rows(name, remembered, tensors), remembered.given(type(self).__name__, tensors)
                rows = remembered.memory.remember(kept, given)
                index = gather_batch(tensors["index"].to(given["logits"].device))
                rows = {column: gather_batch(row.detach()) for column, row in rows.items()}
                fresh, device = self._fresh(remembered, tensors)
                self.sample_states[name].reserve(index.cpu(), fresh, device)
                self.sample_states[name].write(index, rows)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what is kept of samples."""
        super().on_save_checkpoint(checkpoint)
        if kept := {name: state.state_dict() for name, state in self.sample_states.items() if state.size}:
            checkpoint["sample_states"] = kept

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what was kept of samples."""
        super().on_load_checkpoint(checkpoint)
        # A checkpoint of the start has no rows.
        self.sample_states.clear()
        for name, columns in checkpoint.get("sample_states", {}).items():
            self.sample_states[name] = SampleState(name)
            self.sample_states[name].load_state_dict(columns)

    def _fresh(self, remembered: Remembered, tensors: Mapping[str, Any]) -> tuple[Columns, torch.device]:
        """The row of a sample that was not seen, and where the rows are."""
        memory, given = remembered.memory, remembered.given(type(self).__name__, tensors)
        on_host = memory.kept_on == "host"
        return memory.fresh(given), torch.device("cpu") if on_host else given["logits"].device

    def _rows(self, name: str, remembered: Remembered, tensors: Mapping[str, Any]) -> Kept:
        logits = remembered.given(type(self).__name__, tensors)["logits"]
        fresh, device = self._fresh(remembered, tensors)
        if self.evaluates:
            return lambda column: fresh[column].to(logits.device).expand(len(logits), *fresh[column].shape)
        index = self._index(name, len(logits), tensors).cpu()
        state = self.sample_states.setdefault(name, SampleState(name))
        state.reserve(index, fresh, device)

        def kept(column: str) -> Tensor:
            rows = read_once(self, (name, column), lambda: state.columns[column][index.to(device)])
            return rows.to(logits.device)

        return kept

    def _index(self, name: str, samples: int, tensors: Mapping[str, Any]) -> Int[Tensor, " batch"]:
        index = tensors.get("index")
        if index is None:
            raise ValueError(
                f"{type(self).__name__}: the objective remembers '{name}' of each sample and needs the samples' "
                f"'index'; the step offered {', '.join(map(repr, sorted(tensors)))}; let the data set return each "
                "sample's position, and a collate function or mixup that makes new batches keep it."
            )
        if not isinstance(index, Tensor) or index.shape != (samples,):
            came = f"of shape {list(index.shape)}" if isinstance(index, Tensor) else f"that is a {type(index).__name__}"
            raise ValueError(
                f"{type(self).__name__}: an index {came} came with {samples} rows of logits, and '{name}' is kept of "
                "each; give every row its sample's position: what mixes, repeats or cuts a batch must do so with index."
            )
        return index


def _last_of_each(index: Int[Tensor, " samples"]) -> Int[Tensor, " different"]:
    """Where each position comes for the last time.

    Example:
        >>> _last_of_each(torch.tensor([7, 3, 7]))
        tensor([1, 2])
    """
    order = index.argsort(stable=True)
    ordered = index[order]
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    return order[last]
