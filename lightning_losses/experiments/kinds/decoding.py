"""Trains a language model, and measures what decoding changes: kNN-LM's loss, and Mirostat's surprise."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from lightning_losses.data.stdlib_text import StdlibText, TextDataset
from lightning_losses.decoding import Mirostat, MirostatV2, generate, record_datastore
from lightning_losses.decoding.datastore import Datastore, Neighbours, mix_with_neighbours, votes
from lightning_losses.decoding.knn_lm import logits_and_keys
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.evidence.seed_interval import SeedInterval, seed_interval
from lightning_losses.experiments.kinds.language_models import LanguageModelling
from lightning_losses.experiments.loggers.loggers import log_pictures, log_scores, log_table, plain_settings
from lightning_losses.experiments.page import Page, Table
from lightning_losses.experiments.training.training import Trained, Training
from lightning_losses.networks.calls import logits_of
from lightning_losses.plots.curves import language_model_curves
from lightning_losses.plots.decoding import decoding_figure

NEIGHBOUR_COLUMNS = ("model", "test nats/byte", "difference", "perplexity")
SURPRISE_COLUMNS = ("decoding", "target", "bits/byte", "error")
_MIROSTATS = {"mirostat": Mirostat, "mirostat v2": MirostatV2}


@dataclass(frozen=True)
class NeighbourScores:
    """The loss of test text with neighbours, for each of their weights.

    Attributes:
        temperature: of the squared distances, chosen on validation text.
        chosen: the weight that was chosen there.
        alone: nats per byte of the network alone, with its interval over blocks.
        losses: nats per byte by weight.
        differences: to the network alone by weight, of the same blocks.
        keys: how many the datastore holds.
    """

    temperature: float
    chosen: float
    alone: SeedInterval
    losses: Mapping[float, SeedInterval]
    differences: Mapping[float, SeedInterval]
    keys: int

    def rows(self) -> list[list[str]]:
        """The table's cells."""
        lines = [["network alone", _cell(self.alone), "", f"{math.exp(self.alone.mean):.3f}"]]
        for weight, loss in self.losses.items():
            name = f"kNN-LM, weight {weight:g}" + (" (chosen on validation)" if weight == self.chosen else "")
            lines.append([name, _cell(loss), _cell(self.differences[weight]), f"{math.exp(loss.mean):.3f}"])
        return lines


@dataclass(frozen=True)
class DecodingReport:
    """The report of a run.

    Attributes:
        title: one line.
        command: what starts the run again.
        trained: the network.
        neighbours: what kNN-LM changes.
        surprises: bits per byte of what each decoding draws, by its label and target; None for no target.
        text: bits per byte of the test text after the same prompts.
        data: the training data.
        settings: the whole configuration.
        seconds: of the run.
    """

    title: str
    command: str
    trained: Trained
    neighbours: NeighbourScores
    surprises: Mapping[tuple[str, float | None], SeedInterval]
    text: SeedInterval
    data: StdlibText
    settings: dict[str, Any]
    seconds: float

    def scores(self) -> dict[str, float]:
        """The run's, by their full names."""
        found = self.neighbours
        return {
            "test/nats_per_byte": found.alone.mean,
            "test/knn_nats_per_byte": found.losses[found.chosen].mean,
            **{
                f"test/{label.replace(' ', '_')}_error": max(
                    abs(interval.mean - target) for (name, target), interval in self._aimed() if name == label
                )
                for label in _MIROSTATS
            },
        }

    def surprise_rows(self) -> list[list[str]]:
        """The table's cells."""
        lines = [
            [label, "" if target is None else f"{target:g}", _cell(interval),
             "" if target is None else f"{interval.mean - target:+.3f}"]
            for (label, target), interval in self.surprises.items()
        ]  # fmt: skip
        return [["the test text", "", _cell(self.text), ""], *lines]

    def page(self) -> Page:
        """The tables, and the pictures."""
        note = self.note()
        aimed = {label: {t: i for (name, t), i in self._aimed() if name == label} for label in _MIROSTATS}
        levels = {"sampling": self.surprises["sampling", None].mean, "the test text": self.text.mean}
        histories = {self.trained.label: self.trained.history} if self.trained.history else {}
        figures = {"decoding.png": lambda: decoding_figure(self.neighbours.differences, aimed, levels)}
        body: list[Any] = [
            Table(NEIGHBOUR_COLUMNS, self.neighbours.rows(), title="Neighbours"),
            Table(SURPRISE_COLUMNS, self.surprise_rows(), title="Surprise"),
            note,
            "![decoding](decoding.png)",
        ]
        if histories:
            figures["losses.png"] = lambda: language_model_curves(histories)
            body.append("![losses](losses.png)")
        return Page(
            title=self.title,
            command=self.command,
            body=body,
            said=[note],
            numbers={
                "seconds": self.seconds,
                "training_seconds": self.trained.seconds,
                "fingerprint": self.data.fingerprint(),
                "keys": self.neighbours.keys,
                "temperature": self.neighbours.temperature,
                "chosen_weight": self.neighbours.chosen,
                "alone": self.neighbours.alone._asdict(),
                "losses": {f"{weight:g}": loss._asdict() for weight, loss in self.neighbours.losses.items()},
                "differences": {f"{weight:g}": d._asdict() for weight, d in self.neighbours.differences.items()},
                "surprises": [
                    {"decoding": label, "target": target, **interval._asdict()}
                    for (label, target), interval in self.surprises.items()
                ],
                "text": self.text._asdict(),
                "history": self.trained.history,
            },
            settings=self.settings,
            figures=figures,
        )

    def note(self) -> str:
        """The explanation of the tables' cells."""
        return (
            f"Means with Student's 95 % intervals: of losses and their differences over blocks of test text, of "
            f"surprises over drawn sequences. The datastore has {self.neighbours.keys:,} keys of training text; the "
            f"temperature {self.neighbours.temperature:g} of its distances and the marked weight are the best on "
            "validation text. Surprise is -log2 p of the network for each drawn byte, from the first on."
        )

    def _aimed(self) -> list[tuple[tuple[str, float], SeedInterval]]:
        return [((label, t), interval) for (label, t), interval in self.surprises.items() if t is not None]


class Decoding(LanguageModelling):
    """A language model, its loss with neighbours of a datastore, and the surprise of what Mirostat draws."""

    score_names = (
        *("test/nats_per_byte", "test/knn_nats_per_byte"),
        *(f"test/{label.replace(' ', '_')}_error" for label in _MIROSTATS),
    )

    def rehearse(self) -> None:
        """Take a step, and read the settings of decoding."""
        settings = self.config.decode
        block = int(self.config.data.block_length)
        for name in ("weights", "temperatures", "targets"):
            if not settings[name]:
                raise ConfigError(f"decode.{name}: none came; give at least one.")
        if settings.prompt_length + settings.new_tokens > block:
            raise ConfigError(
                f"decode.new_tokens={settings.new_tokens}: with prompts of {settings.prompt_length} they exceed "
                f"blocks of data.block_length={block}; give fewer."
            )
        for name in ("datastore_blocks", "test_blocks", "sequences", "neighbours", "prompt_length", "new_tokens"):
            if settings[name] < 1:
                raise ConfigError(f"decode.{name}={settings[name]}: give at least 1.")
        if not all(0 <= weight <= 1 for weight in settings.weights):
            raise ConfigError(f"decode.weights={list(settings.weights)}: give numbers from 0 to 1.")
        if not all(temperature > 0 for temperature in settings.temperatures):
            raise ConfigError(f"decode.temperatures={list(settings.temperatures)}: give numbers above 0.")
        try:
            for bits in settings.targets:
                Mirostat(float(bits), float(settings.learning_rate))
        except ValueError as error:
            raise ConfigError(f"decode.targets: {error}") from None
        super().rehearse()

    def report(self, student: Training, trained: Sequence[Trained], started: float) -> Any:
        """Loss with and without neighbours, and surprises."""
        data, network = cast(StdlibText, student.datamodule), trained[-1].network
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = network.eval().to(device)
        neighbours = self._neighbours(network, data, device)
        surprises, text = self._surprises(network, data.test, device)
        network.cpu()
        return DecodingReport(
            title=f"Decoding with {student.label} on {data.name}, seed {self.config.seed}",
            command=self.command,
            trained=trained[-1],
            neighbours=neighbours,
            surprises=surprises,
            text=text,
            data=data,
            settings=plain_settings(self.config),
            seconds=time.perf_counter() - started,
        )

    def log(self, logger: Logger | None, report: Any, pictures: Sequence[Path]) -> None:
        """Send the scores, the tables and the pictures."""
        log_scores(logger, report.scores())
        log_table(logger, "report/neighbours", NEIGHBOUR_COLUMNS, report.neighbours.rows())
        log_table(logger, "report/surprises", SURPRISE_COLUMNS, report.surprise_rows())
        log_pictures(logger, pictures)

    def _neighbours(self, network: nn.Module, data: StdlibText, device: torch.device) -> NeighbourScores:
        settings = self.config.decode
        remembered = [
            tuple(tensor.to(device) for tensor in batch.values())
            for batch in _blocks(data.train, settings.datastore_blocks, 64)
        ]
        datastore = record_datastore(network, cast(Any, remembered))
        val, test = (
            [_Searched.of(network, datastore, batch, settings.neighbours, device)
             for batch in _blocks(split, settings.test_blocks, 16)]
            for split in (data.val, data.test)
        )  # fmt: skip
        grid = {
            (float(weight), float(temperature)): sum(each.loss(weight, temperature).sum().item() for each in val)
            for weight in settings.weights
            for temperature in settings.temperatures
        }
        chosen, temperature = min(grid, key=lambda place: grid[place])
        alone = torch.cat([each.alone() for each in test])
        losses = {float(w): torch.cat([each.loss(w, temperature) for each in test]) for w in settings.weights}
        return NeighbourScores(
            temperature=temperature,
            chosen=chosen,
            alone=seed_interval(alone.tolist()),
            losses={weight: seed_interval(loss.tolist()) for weight, loss in losses.items()},
            differences={weight: seed_interval((loss - alone).tolist()) for weight, loss in losses.items()},
            keys=len(datastore),
        )

    def _surprises(
        self, network: nn.Module, test: TextDataset, device: torch.device
    ) -> tuple[dict[tuple[str, float | None], SeedInterval], SeedInterval]:
        settings = self.config.decode
        (batch,) = _blocks(test, settings.sequences, settings.sequences)
        start, stop = settings.prompt_length, settings.prompt_length + settings.new_tokens
        prompts = batch["inputs"][:, :start].to(device)
        with torch.no_grad():
            log_p = logits_of("decode", network(batch["inputs"][:, : stop - 1].to(device))).float().log_softmax(-1)
        target = batch["inputs"][:, start:stop].to(device).unsqueeze(-1)
        text = log_p[:, start - 1 :].gather(-1, target).squeeze(-1)

        def drawn(*processors: Any) -> SeedInterval:
            generator = torch.Generator().manual_seed(int(self.config.seed))
            result = generate(network, prompts, settings.new_tokens, processors=processors, generator=generator)
            return _bits(result.logps[:, start:])

        surprises: dict[tuple[str, float | None], SeedInterval] = {("sampling", None): drawn()}
        for label, kind in _MIROSTATS.items():
            for bits in settings.targets:
                surprises[label, float(bits)] = drawn(
                    kind(target_surprise=float(bits), learning_rate=float(settings.learning_rate))
                )
        return surprises, _bits(text)


@dataclass(frozen=True)
class _Searched:
    """Blocks of text with what the network and the datastore say of them.

    Attributes:
        log_p: [B T, V] of the network.
        neighbours: of each token.
        target: [B, T].
    """

    log_p: Float[Tensor, "tokens vocabulary"]
    neighbours: Neighbours
    target: Tensor

    @classmethod
    def of(
        cls, network: nn.Module, datastore: Datastore, batch: Mapping[str, Tensor], k: int, device: torch.device
    ) -> "_Searched":
        logits, keys = logits_and_keys("decode", network, batch["inputs"].to(device))
        log_p = logits.float().log_softmax(-1).flatten(0, 1)
        return cls(log_p, datastore.search(keys.flatten(0, 1), k), batch["target"].to(device))

    def alone(self) -> Float[Tensor, " blocks"]:
        """The network's nats per byte of each block."""
        return self._loss(self.log_p)

    def loss(self, weight: float, temperature: float) -> Float[Tensor, " blocks"]:
        """Nats per byte of each block with neighbours."""
        found = votes(self.neighbours, self.log_p.shape[-1], temperature)
        return self._loss(mix_with_neighbours(self.log_p, found, weight))

    def _loss(self, log_p: Tensor) -> Float[Tensor, " blocks"]:
        return -log_p.gather(-1, self.target.view(-1, 1)).view(self.target.shape).mean(dim=1)


def _blocks(split: TextDataset, count: int, batch_size: int) -> list[Mapping[str, Tensor]]:
    """Blocks that lie evenly over a split, in batches; all if it has no more."""
    places = torch.linspace(0, len(split) - 1, min(count, len(split))).round().long()
    return [cast(Any, split).__getitems__(part.tolist()) for part in torch.split(places, batch_size)]


def _bits(log_p: Float[Tensor, "sequences tokens"]) -> SeedInterval:
    """The mean surprise of sequences."""
    return seed_interval((-log_p.double().mean(dim=1) / math.log(2)).tolist())


def _cell(interval: SeedInterval) -> str:
    """Mean and half of the interval."""
    half = interval.high - interval.mean
    return f"{interval.mean:.4f}" + ("" if math.isnan(half) else f" ± {half:.4f}")
