"""The evaluation of a trained network: scores on test data, before and after calibration on validation data."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.calibrators import TemperatureScaling
from lightning_losses.data import ImageData, ImageDataset
from lightning_losses.data.packing import IGNORED
from lightning_losses.data.stdlib_text import TextDataset
from lightning_losses.experiments.training.training import Trained
from lightning_losses.metrics import brier_score, expected_calibration_error, negative_log_likelihood
from lightning_losses.networks.calls import call, logits_of


@dataclass(frozen=True)
class Scores:
    """Accuracy (larger is better), negative log-likelihood in nats, Brier score, 15-bin ECE (smaller is better)."""

    accuracy: float
    nll: float
    brier: float
    ece: float

    @classmethod
    def of(cls, logits: Float[Tensor, "samples classes"], target: Int[Tensor, " samples"]) -> "Scores":
        """Score logits against class indices."""
        return cls(
            accuracy=(logits.argmax(dim=-1) == target).double().mean().item(),
            nll=negative_log_likelihood(logits, target, inputs="logits").item(),
            brier=brier_score(logits, target, inputs="logits").item(),
            ece=expected_calibration_error(logits, target, inputs="logits", num_bins=15).item(),
        )


@dataclass(frozen=True)
class Evaluation:
    """A trained network and its scores on the test split.

    Attributes:
        trained: the network and its history.
        before: the scores of its logits.
        after: the scores of its logits divided by `temperature`.
        temperature: fitted by temperature scaling on the validation split.
        logits: its logits on the test split, before calibration.
        target: the classes of the test split.
    """

    trained: Trained
    before: Scores
    after: Scores
    temperature: float
    logits: Float[Tensor, "samples classes"]
    target: Int[Tensor, " samples"]

    @property
    def calibrated_logits(self) -> Float[Tensor, "samples classes"]:
        """The logits after calibration."""
        return self.logits / self.temperature

    @property
    def parameters(self) -> int:
        """The number of the network's parameters."""
        return sum(parameter.numel() for parameter in self.trained.network.parameters())

    def summary(self) -> dict[str, Any]:
        """The plain values of the report."""
        return {
            "name": self.trained.name,
            "label": self.trained.label,
            "parameters": self.parameters,
            "seconds": self.trained.seconds,
            "kept": self.trained.kept,
            "temperature": self.temperature,
            "before": asdict(self.before),
            "after": asdict(self.after),
            "history": self.trained.history,
        }


def evaluate(trained: Trained, data: ImageData) -> Evaluation:
    """Fit the temperature on the validation split, then score the test split before and after it."""
    calibrator = TemperatureScaling().fit(predict_logits(trained.network, data.val), data.val.target)
    logits, target = predict_logits(trained.network, data.test), data.test.target
    return Evaluation(
        trained,
        Scores.of(logits, target),
        Scores.of(calibrator(logits), target),
        calibrator.temperature.item(),
        logits,
        target,
    )


@torch.no_grad()
def predict_logits(
    network: nn.Module, dataset: ImageDataset, batch_size: int = 256
) -> Float[Tensor, "samples classes"]:
    """The network's logits of a whole split, in evaluation mode."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.eval().to(device)
    logits = torch.cat([network(inputs.to(device)).float().cpu() for inputs in torch.split(dataset.inputs, batch_size)])
    network.cpu()
    return logits


@torch.no_grad()
def nats_per_byte(network: nn.Module, dataset: TextDataset, batch_size: int = 64) -> float:
    """Cross-entropy of a whole split, each byte predicted from those before it in its block and document."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.eval().to(device)
    total = 0.0
    for positions in torch.split(torch.arange(len(dataset)), batch_size):
        batch = {name: tensor.to(device) for name, tensor in dataset.__getitems__(positions.tolist()).items()}
        target = batch.pop("target").flatten()
        logits = logits_of("nats_per_byte", call(network, batch.pop("inputs"), **batch)).float()
        total += F.cross_entropy(logits.flatten(0, -2), target, ignore_index=IGNORED, reduction="sum").item()
    network.cpu()
    return total / predicted(dataset)


def predicted(dataset: TextDataset) -> int:
    """How many bytes of a split are predicted."""
    return int((dataset.target.long() != IGNORED).sum())
