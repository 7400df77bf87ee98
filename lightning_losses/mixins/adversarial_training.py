"""The mixin that attacks every batch before the objective sees it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lightning_losses.attacks.attack import Attack
from lightning_losses.attacks.for_data import for_data
from lightning_losses.environment.lightning_internals import attached_trainer, batch_number
from lightning_losses.mixins.objective import ObjectiveMixin
from lightning_losses.numerics.row_generator import Randomness, RowGenerator
from lightning_losses.numerics.rows import class_indices, labelled_rows
from lightning_losses.objective.ignored_targets import ignored_targets
from lightning_losses.parallel.processes import group_rank


class AdversarialTrainingMixin(ObjectiveMixin):
    """Offers the objective `attacked_logits` and `attacked_inputs`: those of the step's inputs after an attack.

    The batch is attacked only if the objective takes them. Plain adversarial training is cross-entropy of the attacked
    logits alone (``objective=adversarial_ce``); `TRADES`, `MART` and `SmoothAdversarialCompSum` take both logits, and
    the attack that belongs to each is set by its loss. The attack runs in evaluation mode and changes neither weights,
    gradients, buffers nor random states; the pass of the attacked inputs is one of training. What layers put out there
    is not recorded as the batch's.

    Random starts are drawn anew in each epoch: with the samples' `index` in the batch, from the attack's seed, the
    epoch and the index, so that a sample is attacked from the same start on any number of processes; without, from the
    seed, the epoch, the batch and the process. A resumed run draws what an uninterrupted one does.

    Attributes:
        attack: any `Attack`. If it has bounds and no `mean` and `std`, it gets those by which the trainer's data module
            normalised.

    Raises:
        ValueError: no attack, where the objective takes attacked logits; a step that offers no inputs or target.

    Source:
        Madry, Makelov, Schmidt, Tsipras, Vladu, 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks",
        arXiv:1706.06083, who attack in training mode; this attacks in evaluation mode, as the code of TRADES and MART
        does, unless the attack says ``batch_norm="train"``.

    Example:
        >>> import lightning
        >>> from lightning_losses import Objective, TRADES
        >>> from lightning_losses.attacks import PGD
        >>> class Robust(AdversarialTrainingMixin, lightning.LightningModule):
        ...     attack = PGD(loss="kl_divergence", random_start="normal")
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = torch.nn.Linear(4, 3)
        ...         self.objective = Objective({"trades": TRADES()})
        ...     def forward(self, inputs):
        ...         return self.network(inputs)
        ...     def training_step(self, batch, batch_idx):
        ...         inputs, target = batch
        ...         return self.apply_objective(inputs=inputs, logits=self(inputs), target=target)
        >>> Robust().training_step((torch.rand(2, 4), torch.tensor([0, 1])), 0)["loss"].item() > 0
        True
    """

    attack: Attack | None = None
    # What was set, and what the attack became by the data module.
    _told: tuple[Attack | None, Attack | None] = (None, None)

    def setup(self, stage: str) -> None:
        """Tell the attack how the data are normalised."""
        super().setup(stage)
        data = getattr(attached_trainer(self), "datamodule", None)
        if self.attack is not None and data is not None:
            # One that was told of other data begins from what was set.
            given, told = self._told
            given = given if given is not None and self.attack is told else self.attack
            self._told = given, for_data(given, data)
            self.attack = self._told[1]

    def objective_tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Add the attacked inputs and their logits, if the objective takes them."""
        tensors = super().objective_tensors(tensors)
        if all(name in tensors or not self.objective.needs(name) for name in ("attacked_logits", "attacked_inputs")):
            return tensors
        return {**tensors, **self.attacked(tensors)}

    def attacked(self, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
        """The attacked inputs of a step and their logits; see `attacked_inputs`."""
        attacked = self.attacked_inputs(tensors)
        with self.beside_the_batch():
            return {"attacked_inputs": attacked, "attacked_logits": self(attacked)}

    def attacked_inputs(self, tensors: Mapping[str, Any]) -> Tensor:
        """The attacked inputs of a step.

        Args:
            tensors: `inputs` and `target`; what no term of the objective counts is not attacked. Of a target of
                probabilities the likeliest class is.
        """
        who = type(self).__name__
        if self.attack is None:
            raise ValueError(
                f"{who}: the objective takes attacked logits, and no attack is set; set self.attack = PGD()."
            )
        if missing := [name for name in ("inputs", "target") if name not in tensors]:
            raise ValueError(
                f"{who}: an attack needs {' and '.join(map(repr, missing))}; the step offered "
                f"{', '.join(map(repr, sorted(tensors)))}."
            )
        inputs, target = tensors["inputs"], tensors["target"]
        kept = labelled_rows(target, *ignored_targets(self))
        classes = class_indices(target).masked_fill(~kept, self.attack.ignore_index)
        with self.beside_the_batch():
            return self.attack(self, inputs, classes, self.attack_generator(inputs, tensors.get("index")))

    def attack_generator(self, inputs: Tensor, index: Int[Tensor, " rows"] | None = None) -> Randomness:
        """What the random starts of this batch are drawn with.

        Args:
            inputs: of the batch.
            index: the samples' positions in their data set, if they are known.
        """
        assert self.attack is not None
        trainer = attached_trainer(self)
        epoch, batch = (trainer.current_epoch, batch_number(trainer)) if trainer is not None else (0, 0)
        place = (epoch,) if index is not None else (epoch, batch, group_rank())
        seed = int(np.random.SeedSequence([self.attack.seed, *place]).generate_state(1)[0])
        return torch.Generator(inputs.device).manual_seed(seed) if index is None else RowGenerator(seed, index)
