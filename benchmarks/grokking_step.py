"""How much a step of the grokking recipe costs, as a multiple of a bare PyTorch loop doing the same mathematics.

    python benchmarks/grokking_step.py

One process, one thread. Both sides train the same network on the same tensors with the same optimizer and the same
loss; `orthogonal` adds the projection of the gradients on both sides. The last column adds, on the recipe's side
alone, the monitors that the task's experiment has, as often as it has them. Rounds alternate, so that a
busy machine slows both; the figure is the ratio of the medians of processor time.
"""

import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn

from lightning_losses.callbacks.nlm_cosine import NLMCosine
from lightning_losses.callbacks.orthogonal_gradient import OrthogonalGradient
from lightning_losses.callbacks.softmax_collapse import SoftmaxCollapse
from lightning_losses.callbacks.weight_norms import WeightNorms
from lightning_losses.data.lazy_rich_polynomial import LazyRichPolynomial
from lightning_losses.data.modular_arithmetic import ModularArithmetic
from lightning_losses.data.resident import ResidentData
from lightning_losses.data.sparse_parity import SparseParity
from lightning_losses.data.xor_cluster import XORCluster
from lightning_losses.losses import CrossEntropy
from lightning_losses.modules.full_batch_learner import FullBatchLearner
from lightning_losses.networks.mlp import MLP
from lightning_losses.networks.polynomial_network import PolynomialNetwork
from lightning_losses.networks.two_layer_relu import TwoLayerReLU
from lightning_losses.objective import Objective, Term
from lightning_losses.optim.orthogonal_gradient import orthogonalize_gradients_

ROUNDS = 5


class Task(NamedTuple):
    data: Callable[[int], ResidentData]
    network: Callable[[ResidentData], nn.Module]
    # Of whole batches, as a bare loop would write it, and as the recipe has it.
    bare_loss: Callable[..., torch.Tensor]
    loss: nn.Module
    optimizer: Callable[..., torch.optim.Optimizer]
    steps: int
    monitors: Callable[[], list[L.Callback]]
    orthogonal: bool = False
    measure: str = "accuracy"


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0)


def descent(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def perceptron(bias):
    return lambda data: MLP(data.num_features, data.num_classes, bias=bias)


def addition(prime):
    return lambda steps: ModularArithmetic(prime=prime, steps_per_epoch=steps)


def of_classes():
    return [SoftmaxCollapse(), NLMCosine(), WeightNorms()]


CLASSES = F.cross_entropy, CrossEntropy(), adamw
TASKS = {
    "addition mod 113": Task(addition(113), perceptron(False), *CLASSES, 15, of_classes, orthogonal=True),
    "addition mod 31": Task(addition(31), perceptron(False), *CLASSES, 150, of_classes, orthogonal=True),
    "sparse parity": Task(
        lambda steps: SparseParity(steps_per_epoch=steps), perceptron(True), *CLASSES, 100, of_classes, orthogonal=True
    ),
    "XOR clusters": Task(
        lambda steps: XORCluster(steps_per_epoch=steps), lambda data: TwoLayerReLU(data.num_features),
        F.cross_entropy, CrossEntropy(), descent, 50,
        lambda: [NLMCosine(every_n_steps=1), WeightNorms(every_n_steps=1)],
    ),
    "lazy to rich": Task(
        lambda steps: LazyRichPolynomial(dimension=40, train_samples=180, steps_per_epoch=steps),
        lambda data: PolynomialNetwork(data.num_features, hidden=150),
        F.mse_loss, Term(nn.MSELoss(), inputs={"input": "logits"}), descent, 1000,
        lambda: [WeightNorms(every_n_steps=100)], measure="loss",
    ),
}  # fmt: skip


def bare(data, task, steps, orthogonal):
    network = task.network(data)
    optimizer = task.optimizer(network.parameters())
    inputs, target = data.train["inputs"], data.train["target"]
    parameters = list(network.parameters())
    started = time.process_time()
    for _ in range(steps):
        optimizer.zero_grad()
        task.bare_loss(network(inputs), target).backward()
        if orthogonal:
            orthogonalize_gradients_(parameters, [parameter.grad for parameter in parameters])
        optimizer.step()
    return (time.process_time() - started) / steps


class Clock(L.Callback):
    def on_train_start(self, trainer, module):
        self.started = time.process_time()

    def on_train_end(self, trainer, module):
        self.seconds = time.process_time() - self.started


def recipe(data, task, steps, orthogonal, watched=False):
    module = FullBatchLearner(task.network(data), Objective({"loss": task.loss}), task.optimizer, measure=task.measure)
    clock = Clock()
    monitors = task.monitors() if watched else []
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[clock, *monitors, *([OrthogonalGradient()] if orthogonal else [])],
    )
    trainer.fit(module, data)
    return clock.seconds / steps


def main():
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print(f"{'task':<18} {'gradient':<11} {'bare ms':>8} {'recipe ms':>10} {'ratio':>6} {'watched':>8}")
    for name, task in TASKS.items():
        data = task.data(task.steps)
        data.setup()
        for orthogonal in (False, True) if task.orthogonal else (False,):
            arguments = (data, task, task.steps, orthogonal)
            bare(*arguments), recipe(*arguments)
            rounds = [(bare(*arguments), recipe(*arguments), recipe(*arguments, True)) for _ in range(ROUNDS)]
            loop, ours, watched = (statistics.median(side) for side in zip(*rounds, strict=True))
            kind = "orthogonal" if orthogonal else "plain"
            print(
                f"{name:<18} {kind:<11} {1e3 * loop:>8.2f} {1e3 * ours:>10.2f} "
                f"{ours / loop:>6.2f} {watched / loop:>8.2f}"
            )


if __name__ == "__main__":
    main()
