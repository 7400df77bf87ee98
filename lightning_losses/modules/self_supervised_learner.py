"""Ready LightningModules that learn without labels, from two views of every sample."""

import math
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.data.loading import named
from lightning_losses.data.seeded_views import Augmentation
from lightning_losses.mixins.ema_teacher import Buffers, EMATeacherMixin
from lightning_losses.mixins.two_views import TwoViews
from lightning_losses.modules.classifier import OptimizerFactory, SchedulerFactory, parameters_to_train, with_scheduler
from lightning_losses.networks.projected_encoder import Norm, ProjectedEncoder, perceptron
from lightning_losses.numerics.checks import check_count, check_number
from lightning_losses.objective import Objective


class SelfSupervisedLearner(TwoViews, L.LightningModule):
    """Trains a network without labels, by any objective that takes two views' embeddings.

    Batches are mappings with `inputs`, `index` and, if the data make pairs, `other_inputs`; a `target` is there for
    losses that take it. Validation logs the objective of the first two views as ``val/loss``.

    Args:
        network: a `ProjectedEncoder`.
        objective: the objective to minimise. If it takes `predictions`, a predictor of one hidden layer is built.
        augmentation: makes a view of one sample's inputs; None leaves the views to the data.
        predictor_width: of the predictor's hidden layer; None: a quarter of the embeddings' width, as in SimSiam.
        predictor_norm: behind the predictor's hidden layer.
        views_together: see `TwoViews`.
        crops: see `TwoViews`.
        crop_augmentation: see `TwoViews`.
        queue_size: how many past embeddings are kept and offered as `queue`, which some term must take; 0 for none.
        view_seed: see `TwoViews`.
        micro_batch: see `GradCache`; None embeds a batch at once.
        optimizer: a function that makes the optimizer from the parameters; AdamW with its defaults if None.
        scheduler: a function that makes a learning-rate scheduler; it is stepped at every optimizer step.

    Example:
        >>> import torch
        >>> from lightning_losses import NegativeCosine
        >>> from lightning_losses.data.seeded_views import RandomShift
        >>> from lightning_losses.networks import SmallCNN
        >>> network = ProjectedEncoder(SmallCNN(num_classes=10, width=8), widths=[16])
        >>> module = SelfSupervisedLearner(network, Objective({"cosine": NegativeCosine()}), RandomShift(2))
        >>> step = module.training_step({"inputs": torch.randn(4, 1, 28, 28), "index": torch.arange(4)}, 0)
        >>> -1 <= step["loss"].item() <= 1
        True
    """

    logged_as = "{stage}/loss"

    def __init__(
        self,
        network: ProjectedEncoder,
        objective: Objective,
        augmentation: Augmentation | None = None,
        predictor_width: int | None = None,
        predictor_norm: Norm = "batch",
        views_together: bool = False,
        crops: int = 0,
        crop_augmentation: Augmentation | None = None,
        queue_size: int = 0,
        view_seed: int = 0,
        micro_batch: int | None = None,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__()
        check_number(type(self).__name__, "view_seed", view_seed, least=0)
        check_number(type(self).__name__, "crops", crops, least=0)
        check_count(type(self).__name__, "queue_size", queue_size, zero="for none")
        self.network = network
        self.objective = objective
        self.augmentation, self.view_seed, self.views_together = augmentation, view_seed, views_together
        self.crops, self.crop_augmentation, self.micro_batch = crops, crop_augmentation, micro_batch
        if objective.needs("predictions"):
            dim = network.num_embeddings
            self.predictor = perceptron([dim, predictor_width or max(dim // 4, 1), dim], predictor_norm)
        if queue_size:
            self.check_queue_is_taken()
            self.start_queue(queue_size, network.num_embeddings)
        self.make_optimizer: OptimizerFactory = optimizer or torch.optim.AdamW
        self.make_scheduler = scheduler

    def forward(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch dim"]:
        """The embeddings of a batch of inputs."""
        embeddings: Tensor = self.network(inputs)
        return embeddings

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """The objective of one batch."""
        return self.apply_objective(**named(type(self).__name__, batch))

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """The objective of one batch; its first two views are always the same."""
        return self.apply_objective(**named(type(self).__name__, batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Float[Tensor, "batch features"]:
        """The features of one batch, without augmentation."""
        return self.network.features(named(type(self).__name__, batch)["inputs"])

    def configure_optimizers(self) -> Any:
        """One optimizer for the network, the predictor and the objective's own parameters."""
        return with_scheduler(self.make_optimizer(parameters_to_train(self, self.objective)), self.make_scheduler)


class MovingTargetLearner(EMATeacherMixin, SelfSupervisedLearner):
    """Trains a network to predict its moving average's embeddings of other views, as BYOL and DINO do.

    The average has the projector too, but not the predictor, and is in evaluation mode.

    Args:
        network: see `SelfSupervisedLearner`.
        decay: of the average at the start of training, in [0, 1].
        rises: whether the decay rises to 1 by a half cosine over the training, as in BYOL and DINO.
        warmup: see `EMATeacherMixin`.
        buffers: see `EMATeacherMixin`.
        **learner: see `SelfSupervisedLearner`.

    Source:
        Grill et al., 2020, "Bootstrap Your Own Latent", arXiv:2006.07733: 0.996, rising.

    Example:
        >>> from lightning_losses import NegativeCosine
        >>> from lightning_losses.networks import SmallCNN
        >>> network = ProjectedEncoder(SmallCNN(num_classes=10, width=8), widths=[16])
        >>> module = MovingTargetLearner(network, objective=Objective({"byol": NegativeCosine("byol")}))
        >>> module.ema_decay
        0.996
    """

    def __init__(
        self,
        network: ProjectedEncoder,
        decay: float = 0.996,
        rises: bool = True,
        warmup: bool = False,
        buffers: Buffers = "copy",
        **learner: Any,
    ) -> None:
        super().__init__(network=network, **learner)
        self.first_decay, self.rises = decay, rises
        self.start_ema_teacher("network", decay=decay, warmup=warmup, buffers=buffers)

    def update_ema_teacher(self) -> None:
        """Move the average towards the network, by the decay of this step."""
        if self.rises:
            done = self.training_clock().get("progress", 0.0)
            self.ema_decay = 1 - (1 - self.first_decay) * (1 + math.cos(math.pi * done)) / 2
        super().update_ema_teacher()
