"""Steps with a second gradient, by the callbacks in a Trainer."""

import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_losses.callbacks import ASAM, SAM, SurrogateGradientNorm
from tests.callbacks.training import trainer
from tests.golden.adapter import Adapter, Params

Tensors = dict[str, Tensor]


class Learner(L.LightningModule):
    """Parameters by name, a function of them that returns a step's output, and SGD."""

    def __init__(self, step: Any, lr: float, momentum: float, **parameters: Tensor) -> None:
        super().__init__()
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value.clone()))
        self.step, self.lr, self.momentum = step, lr, momentum
        self.after: list[Tensor] = []
        self.first: Tensor | None = None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.step(*self.parameters())

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        # Behind the callbacks' hooks.
        self.gradient = torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None])

    def on_after_backward(self) -> None:
        if self.first is None:
            self.first = torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None])

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.after.append(torch.cat([p.detach().flatten() for p in self.parameters()]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr, self.momentum)

    def fit(self, callback: L.Callback, steps: int) -> "Learner":
        with tempfile.TemporaryDirectory() as folder:
            trainer(Path(folder), [callback]).fit(self, DataLoader(range(steps), batch_size=None))
        return self


def sam(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        rho, lr, momentum, eta = (given.take(name) for name in ("rho", "lr", "momentum", "eta"))
    matrix, slope = inputs["Q"], inputs["b"]

    def loss(w: Tensor) -> Tensor:
        return 0.5 * w @ matrix @ w + slope @ w + (w**4).sum() / 10

    callbacks = {"sam": SAM(rho), "asam_davda54": ASAM(rho, eta=0.0, scaled=["*"]), "asam_official": ASAM(rho, eta=eta)}
    return {
        name: torch.stack(Learner(loss, lr, momentum, weight=inputs["w0"]).fit(callback, steps=3).after)
        for name, callback in callbacks.items()
    }


def surrogate_gradient_norm(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        weight, rho, radius = (given.take(name) for name in ("lambda_", "rho", "r"))
    bound = 0.0

    def step(w: Tensor, a: Tensor) -> dict[str, Tensor]:
        mean = a * torch.tanh(inputs["X"] @ w)
        return {"loss": ((mean - inputs["y"]) ** 2).mean(), "mean": mean}

    # With a rate of 1 and a bound of 0, λ has grown by ρ times the norm after the step.
    callback = SurrogateGradientNorm(weight, rho, radius, learning_rate=1.0, bound=bound)
    learner = Learner(step, 0.0, 0.0, w=inputs["W"], a=inputs["a"]).fit(callback, steps=1)
    assert learner.first is not None
    norm = (callback.multiplier - weight) / rho
    return {"grad_task": learner.first, "grad_norm": norm, "grad_total": learner.gradient}


ADAPTERS: dict[str, Adapter] = {"sam": sam, "surrogate_gradient_norm": surrogate_gradient_norm}
