"""Balancing policies on two tasks whose losses have different scales.

    python benchmarks/balancing.py

A network of two shared layers and two heads learns two tasks on 1,000 samples of MNIST-1D: the class, by
cross-entropy, and the sample in reverse order, by the squared error summed over its 40 numbers. The second loss is at
first about 17 times as large. Each policy trains the same network on the same batches, AdamW at a learning rate of
3e-3, 15 epochs of 10 steps. Shown are the means over seeds and their standard errors, on 2,000 test samples, beside
networks that learn one task alone.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lightning_losses.balancing as policies
from lightning_losses import Objective, Term
from lightning_losses.balancing import Balancing, GradientBalancing, TorchJDWeighting, UncertaintyWeighting
from lightning_losses.data import MNIST1D
from lightning_losses.objective import balanced_backward

EPOCHS, STEPS, BATCH = 15, 10, 100
POLICIES = {
    kind.__name__: kind
    for kind in vars(policies).values()
    if isinstance(kind, type) and issubclass(kind, Balancing) and kind not in (Balancing, GradientBalancing)
}
del POLICIES[TorchJDWeighting.__name__]


def classify(class_logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(class_logits, target)


def reverse(reversed_inputs: Tensor, inputs: Tensor) -> Tensor:
    return (reversed_inputs - inputs.flip(-1)).square().sum(dim=-1).mean()


class TwoTasks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.classes, self.reversed = nn.Linear(64, 10), nn.Linear(64, 40)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        hidden = self.trunk(inputs)
        return {"class_logits": self.classes(hidden), "reversed_inputs": self.reversed(hidden)}


def trained(objective: Objective, inputs: Tensor, target: Tensor, seed: int) -> nn.Module:
    """The network after training."""
    torch.manual_seed(seed)
    network = TwoTasks()
    learned = [] if objective.balancing is None else list(objective.balancing.parameters())
    groups = [{"params": list(network.parameters())}, {"params": learned, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=3e-3)
    for epoch in range(EPOCHS):
        if objective.balancing is not None:
            objective.balancing.at_epoch(epoch)
        for rows in torch.randperm(len(inputs)).view(STEPS, BATCH):
            given = {**network(inputs[rows]), "inputs": inputs[rows], "target": target[rows]}
            optimizer.zero_grad()
            if objective.balancing is None:
                objective(**given).total.backward()
            else:
                balanced_backward(objective, network, **given)
            optimizer.step()
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    data = MNIST1D(rows=STEPS * BATCH, val_rows=10, test_rows=2000)
    data.prepare_data()
    train, _, test = data.splits()
    inputs, held_out = train.inputs.flatten(1)[: STEPS * BATCH], test.inputs.flatten(1)
    tasks = {"classify": classify, "reverse": reverse}

    def objective(names: tuple[str, ...] = ("classify", "reverse"), policy: Balancing | None = None) -> Objective:
        return Objective({name: Term(tasks[name]) for name in names}, balancing=policy)

    rows: dict[str, Callable[[], Objective]] = {
        "one task alone": objective,
        "plain sum": objective,
        **{name: lambda kind=kind: objective(policy=options(kind)) for name, kind in POLICIES.items()},
    }
    for name, make in rows.items():
        accuracies, errors = [], []
        for seed in range(seeds):
            if name == "one task alone":
                classifier = trained(objective(("classify",)), inputs, train.target, seed)
                reverser = trained(objective(("reverse",)), inputs, train.target, seed)
            else:
                classifier = reverser = trained(make(), inputs, train.target, seed)
            with torch.no_grad():
                hits = classifier(held_out)["class_logits"].argmax(dim=-1) == test.target
                accuracies.append(100 * hits.float().mean().item())
                errors.append(reverse(reverser(held_out)["reversed_inputs"], held_out).item())
        print(f"| {name} | {interval(accuracies, 1)} | {interval(errors, 2)} |", flush=True)


def options(kind: type[Balancing]) -> Balancing:
    return kind(kinds=["classification", "regression"]) if kind is UncertaintyWeighting else kind()


def interval(values: list[float], digits: int) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.{digits}f} ± {error:.{digits}f}"


if __name__ == "__main__":
    main()
