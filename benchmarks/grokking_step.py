"""How much a step of the grokking recipe costs, as a multiple of a bare PyTorch loop doing the same mathematics.

    python benchmarks/grokking_step.py

One process, one thread. Both sides train the same network on the same tensors with the same optimizer and the same
loss; `orthogonal` adds the projection of the gradients on both sides. The last column adds, on the recipe's side
alone, the experiment's monitors (collapse, cosine and weight norms every 10 steps). Rounds alternate, so that a
busy machine slows both; the figure is the ratio of the medians of processor time.
"""

import statistics
import time
import warnings
from collections.abc import Callable

import lightning as L
import torch
import torch.nn.functional as F

from lightning_losses.callbacks.nlm_cosine import NLMCosine
from lightning_losses.callbacks.orthogonal_gradient import OrthogonalGradient
from lightning_losses.callbacks.softmax_collapse import SoftmaxCollapse
from lightning_losses.callbacks.weight_norms import WeightNorms
from lightning_losses.data.modular_arithmetic import ModularArithmetic
from lightning_losses.data.resident import ResidentData
from lightning_losses.data.sparse_parity import SparseParity
from lightning_losses.losses import CrossEntropy
from lightning_losses.modules.full_batch_learner import FullBatchLearner
from lightning_losses.networks.mlp import MLP
from lightning_losses.objective import Objective
from lightning_losses.optim.orthogonal_gradient import orthogonalize_gradients_

ROUNDS = 5
TASKS: dict[str, tuple[Callable[[int], ResidentData], bool, int]] = {
    "addition mod 113": (lambda steps: ModularArithmetic(steps_per_epoch=steps), False, 15),
    "addition mod 31": (lambda steps: ModularArithmetic(prime=31, steps_per_epoch=steps), False, 150),
    "sparse parity": (lambda steps: SparseParity(steps_per_epoch=steps), True, 100),
}


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0)


def bare(data, bias, steps, orthogonal):
    network = MLP(data.num_features, data.num_classes, bias=bias)
    optimizer = adamw(network.parameters())
    inputs, target = data.train["inputs"], data.train["target"]
    parameters = list(network.parameters())
    started = time.process_time()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(inputs), target).backward()
        if orthogonal:
            orthogonalize_gradients_(parameters, [parameter.grad for parameter in parameters])
        optimizer.step()
    return (time.process_time() - started) / steps


class Clock(L.Callback):
    def on_train_start(self, trainer, module):
        self.started = time.process_time()

    def on_train_end(self, trainer, module):
        self.seconds = time.process_time() - self.started


def recipe(data, bias, steps, orthogonal, watched=False):
    network = MLP(data.num_features, data.num_classes, bias=bias)
    module = FullBatchLearner(network, Objective({"ce": CrossEntropy()}), adamw)
    clock = Clock()
    monitors = [SoftmaxCollapse(), NLMCosine(), WeightNorms()] if watched else []
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
    torch.set_num_threads(1)
    print(f"{'task':<18} {'gradient':<11} {'bare ms':>8} {'recipe ms':>10} {'ratio':>6} {'watched':>8}")
    for name, (make, bias, steps) in TASKS.items():
        data = make(steps)
        data.setup()
        for orthogonal in (False, True):
            arguments = (data, bias, steps, orthogonal)
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
