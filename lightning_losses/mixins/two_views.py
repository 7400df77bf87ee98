"""The mixin that embeds two views of every sample, and offers what self-supervised losses take of them."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.data.seeded_views import Augmentation, seeded_views
from lightning_losses.environment.lightning_internals import attached_trainer
from lightning_losses.environment.repeated_batch import read_once, runs_again
from lightning_losses.mixins.distillation import DistillationMixin
from lightning_losses.mixins.grad_cache import GradCache
from lightning_losses.numerics.checks import check_count
from lightning_losses.objective.term import Term
from lightning_losses.parallel.processes import gather_batch

_INPUTS = ("inputs", "other_inputs")
_EMBEDDINGS = ("embeddings", "embeddings_b")
_TARGETS = ("target_embeddings", "target_embeddings_b")
_PREDICTIONS = ("predictions", "predictions_b")


class TwoViews(GradCache, DistillationMixin):
    """Embeds two views of every sample, and offers the objective `embeddings` and `embeddings_b`.

    The views are the step's `inputs` and `other_inputs`, if it has both, as data with ``pairs=True`` give them. Else
    `augmentation` makes them of `inputs`: a view depends only on `view_seed`, the sample's `index` and the view's
    number, which grows from epoch to epoch and begins at 0 in evaluation. Without an `index` torch's random state
    decides in training, and the sample's place in the batch in a trainer's evaluation. Further tensors are made if the
    objective takes them:

    - `predictions`, `predictions_b`: what `predict` makes of the embeddings;
    - `target_embeddings`, `target_embeddings_b`: the teacher's embeddings of both views, if a teacher is set, as
      `EMATeacherMixin` does; else the embeddings themselves, as constants;
    - `crop_embeddings`: the embeddings of `crops` further views that `crop_augmentation` makes;
    - `mixed_embeddings`, `partner_embeddings`, `mix_share`: every first view is mixed with the second view of another
      sample of the process's batch; the share is drawn uniformly, once for the batch. A trainer's evaluation, and
      evaluation mode without a trainer, mix nothing: the share is 1, and each sample its own partner;
    - `queue`: the embeddings that were enqueued in the steps before, the newest first, once there are any; see
      `start_queue`.

    Labels of the data, `target`, are offered only if a loss can't do without them or its term's `inputs` name them.

    Set `self.network`, which maps inputs to embeddings; override `embed` or `predict` for anything else. A module of
    losses that gather the batch of all processes needs nothing more on several; batch norm in its network does, with
    `sync_batchnorm` of the trainer.

    Attributes:
        augmentation: makes a view of one sample's inputs with a generator, such as `RandomShift`.
        view_seed: seed of all views.
        views_together: whether both views pass through the network in one batch, so that batch norm has the statistics
            of both. By default each view passes alone, as in the authors' code of Barlow Twins, VICReg, SimSiam and
            BYOL: statistics that both views share may tell the network which samples belong together.
        micro_batch: how many samples are embedded at a time, see `GradCache`.
        crops: the number of further views.
        crop_augmentation: makes one of them; None: `augmentation` does.

    Example:
        >>> import lightning
        >>> from lightning_losses import BarlowTwins, Objective
        >>> from lightning_losses.data.seeded_views import RandomShift
        >>> class Twins(TwoViews, lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        ...         self.objective = Objective({"barlow_twins": BarlowTwins()})
        ...         self.augmentation = RandomShift(1)
        ...     def training_step(self, batch, batch_idx):
        ...         return self.apply_objective(**batch)
        >>> step = Twins().training_step({"inputs": torch.randn(8, 1, 4, 4), "index": torch.arange(8)}, 0)
        >>> step["embeddings"].shape, step["embeddings_b"].shape
        (torch.Size([8, 3]), torch.Size([8, 3]))
    """

    augmentation: Augmentation | None = None
    view_seed: int = 0
    views_together: bool = False
    crops: int = 0
    crop_augmentation: Augmentation | None = None
    past_embeddings: Float[Tensor, "rows dim"]
    past_count: Int[Tensor, ""]

    def embed(self, inputs: Any) -> Float[Tensor, "batch dim"]:
        """The embeddings of one view's inputs."""
        network: Any = self.network
        embeddings: Tensor = network(inputs)
        return embeddings

    def predict(self, embeddings: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """The predictions from one view's embeddings of those of the other."""
        predictor = getattr(self, "predictor", None)
        if predictor is None:
            raise ValueError(
                f"{type(self).__name__}: the objective takes predictions; set self.predictor, which makes them of "
                "embeddings, or override predict."
            )
        predictions: Tensor = predictor(embeddings)
        return predictions

    def start_queue(self, size: int, dim: int) -> None:
        """Keep the embeddings of past batches, the newest `size`, as a queue; call it in the constructor.

        After each training step the `target_embeddings_b` of all processes are enqueued if there is a teacher, else
        the `embeddings_b`: every process keeps the same queue, in a buffer that is saved with the module.

        Args:
            size: the most rows that are kept, at least 1.
            dim: D, the width of embeddings.

        Raises:
            ValueError: a size or width below 1; in the first step, embeddings of another width, or an objective without
                a term that takes `queue`.
        """
        check_count("two_views", "size", size)
        check_count("two_views", "dim", dim)
        self.register_buffer("past_embeddings", torch.zeros(size, dim))
        # How many of the buffer's rows are embeddings: once to be saved, once so that no step reads it of a device.
        self.register_buffer("past_count", torch.zeros((), dtype=torch.int64))
        self.__dict__["_queued"] = 0
        self.register_load_state_dict_post_hook(_count_queued)  # type: ignore[no-untyped-call]

    def check_queue_is_taken(self) -> None:
        """Raise ``ValueError`` if no term of the objective takes `queue`, which would be filled for nothing."""
        if not self.objective.needs("queue"):
            raise ValueError(
                f"{type(self).__name__}: a queue came with an objective none of whose terms takes 'queue'; give a loss "
                "that does, as nt_xent, or keep no queue."
            )

    def apply_objective(self, **tensors: Any) -> dict[str, Any]:
        """Embed two views, evaluate `self.objective`, and return the step's output with the embeddings."""
        return super().apply_objective(**self.with_views(tensors))

    def with_views(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """The step's tensors with both views, and their embeddings.

        Raises:
            ValueError: no inputs to make views of, or nothing that makes them.
        """
        if "embeddings" in tensors:
            return tensors
        if "inputs" not in tensors:
            raise ValueError(
                f"{type(self).__name__}: two views need 'inputs'; the step offered "
                f"{', '.join(map(repr, sorted(tensors)))}."
            )
        if "other_inputs" not in tensors:
            if self.augmentation is None:
                raise ValueError(
                    f"{type(self).__name__}: the step has no 'other_inputs' as a second view; give data with "
                    "pairs=True, or set self.augmentation."
                )
            tensors = {**tensors, **self._crops(tensors)}
            first, second = (self._views(self.augmentation, tensors, view) for view in range(2))
            tensors = {**tensors, "inputs": first, "other_inputs": second}
        embeddings, embeddings_b = self.embed_both(tensors["inputs"], tensors["other_inputs"])
        return {**tensors, "embeddings": embeddings, "embeddings_b": embeddings_b}

    def embed_both(
        self, first: Float[Tensor, "batch ..."], second: Float[Tensor, "batch ..."]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]:
        """The embeddings of two views, which pass through the network together or one after the other."""
        if self.views_together:
            together = self.embedded(self.embed, torch.cat([first, second]))
            return together[: len(first)], together[len(first) :]
        embeddings = self.embedded(self.embed, first)
        with self.beside_the_batch():
            return embeddings, self.embedded(self.embed, second)

    def objective_tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Add what the objective takes of the two views."""
        if "_queued" in self.__dict__:
            self.check_queue_is_taken()
        tensors = super().objective_tensors(tensors)
        queued = read_once(self, "queued", lambda: self.__dict__.get("_queued"))
        queue = {"queue": self.past_embeddings[:queued]} if queued else {}
        offered = {**queue, **self._predicted(tensors), **self._targets(tensors), **self._further(tensors), **tensors}
        terms = [term for term in getattr(self.objective, "terms", {}).values() if isinstance(term, Term)]
        if not any(term.asks_for("target") for term in terms):
            # A loss that can do without labels would take them unseen.
            offered.pop("target", None)
        return offered

    def on_objective(self, output: dict[str, Any], offered: dict[str, Any] | None = None) -> None:
        """Enqueue a training step's embeddings."""
        super().on_objective(output, offered)
        if "_queued" not in self.__dict__ or self.evaluates or not torch.is_grad_enabled() or runs_again(self):
            return
        keys = {**output, **(offered or {})}
        newest = keys["embeddings_b" if self.teacher is None else "target_embeddings_b"].detach()
        if (group := self.gathered_from()) is not False:
            newest = gather_batch(newest, group)
        size, dim = self.past_embeddings.shape
        if newest.shape[1] != dim:
            raise ValueError(
                f"{type(self).__name__}: embeddings of shape {list(newest.shape)} came for a queue of width {dim}; "
                f"call start_queue({size}, dim={newest.shape[1]})."
            )
        # A new tensor: the graph of this step's loss may hold the old one.
        self.past_embeddings = torch.cat([newest.to(self.past_embeddings), self.past_embeddings])[:size]
        self.__dict__["_queued"] = min(self._queued + len(newest), size)
        self.past_count.fill_(self._queued)

    @property
    def _queued(self) -> int:
        rows: int = self.__dict__["_queued"]
        return rows

    def _wants(self, names: Iterable[str], tensors: dict[str, Any]) -> bool:
        return any(self.objective.needs(name) and name not in tensors for name in names)

    def _predicted(self, tensors: dict[str, Any]) -> dict[str, Any]:
        if not self._wants(_PREDICTIONS, tensors):
            return {}
        return {name: self.predict(tensors[of]) for name, of in zip(_PREDICTIONS, _EMBEDDINGS, strict=True)}

    def _targets(self, tensors: dict[str, Any]) -> dict[str, Any]:
        queues = self.teacher is not None and "_queued" in self.__dict__
        if not self._wants(_TARGETS, tensors) and not queues:
            return {}
        if self.teacher is None:
            return {name: tensors[of].detach() for name, of in zip(_TARGETS, _EMBEDDINGS, strict=True)}
        with torch.no_grad(), self.teacher_in_evaluation(), self.beside_the_batch():
            return {name: self.teacher(tensors[of]) for name, of in zip(_TARGETS, _INPUTS, strict=True)}

    def _further(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """The embeddings of crops and of mixtures."""
        offered: dict[str, Any] = {}
        if "crop_inputs" in tensors and self._wants(["crop_embeddings"], tensors):
            with self.beside_the_batch():
                crops = [self.embedded(self.embed, crop) for crop in tensors["crop_inputs"].unbind(dim=1)]
            offered["crop_embeddings"] = torch.stack(crops, dim=1)
        if self._wants(["mixed_embeddings"], tensors) and not self.mixes:
            unmixed, partner = (tensors[name] for name in _EMBEDDINGS)
            share = torch.ones(len(unmixed), device=unmixed.device)
            offered |= {"mixed_embeddings": unmixed, "partner_embeddings": partner, "mix_share": share}
        elif self._wants(["mixed_embeddings"], tensors):
            first, second, embeddings_b = tensors["inputs"], tensors["other_inputs"], tensors["embeddings_b"]
            drawn, order = float(torch.rand(())), torch.randperm(len(first)).to(first.device)
            with self.beside_the_batch():
                offered["mixed_embeddings"] = self.embedded(self.embed, drawn * first + (1 - drawn) * second[order])
            offered["partner_embeddings"] = embeddings_b[order]
            offered["mix_share"] = torch.full((len(first),), drawn, device=first.device)
        return offered

    def _crops(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """[B, V, ...] the further views of every sample, if the objective takes their embeddings."""
        augmentation = self.crop_augmentation or self.augmentation
        if augmentation is None or not self.crops or not self._wants(["crop_embeddings"], tensors):
            return {}
        views = [self._views(augmentation, tensors, 2 + crop) for crop in range(self.crops)]
        return {"crop_inputs": torch.stack(views, dim=1)}

    def _views(self, augmentation: Augmentation, tensors: dict[str, Any], view: int) -> Float[Tensor, "batch ..."]:
        """A view of every sample."""
        inputs, index = tensors["inputs"], tensors.get("index")
        trainer = attached_trainer(self)
        epoch = trainer.current_epoch if trainer is not None and trainer.training else 0
        number = epoch * (2 + self.crops) + view
        if index is None:
            index = torch.randint(2**62, (len(inputs),)) if self.mixes else torch.arange(len(inputs))
        if len(index) != len(inputs):
            raise ValueError(
                f"{type(self).__name__}: an index of {len(index)} samples came with inputs of shape "
                f"{list(inputs.shape)}; give the number of each sample."
            )
        return seeded_views(augmentation, inputs, self.view_seed, number, places=index)


def _count_queued(module: Any, keys: Any) -> None:
    """After a state was loaded, the number of the queue's rows is read of it once."""
    module.__dict__["_queued"] = int(module.past_count)
