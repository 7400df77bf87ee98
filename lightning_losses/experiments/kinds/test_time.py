"""Trains classifiers on clean data, and compares how methods adapt them to a stream of corruptions."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.data.corruptions import CorruptionStream
from lightning_losses.environment.cache_folder import cache_folder
from lightning_losses.experiments.comparison.judged_claims import claims_of, judged_claims
from lightning_losses.experiments.comparison.shown_numbers import shown, spread
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.config.instantiate import instantiate
from lightning_losses.experiments.evidence.claims import Claim
from lightning_losses.experiments.evidence.seed_interval import seed_interval
from lightning_losses.experiments.launch import Experiment
from lightning_losses.experiments.loggers.loggers import plain_settings
from lightning_losses.experiments.page import Page, Table
from lightning_losses.experiments.training.evaluation import predict_logits
from lightning_losses.experiments.training.kept_networks import KeptNetworks
from lightning_losses.experiments.training.training import Training, rehearse_seeds, training_of_seed
from lightning_losses.plots.stream_errors import stream_errors
from lightning_losses.test_time import EATA, Adaptation

TEST_TIME_METRICS = ("stream_error", "last_error", "error_growth")


class TestTime(Experiment):
    """A classifier of each seed, which meets the stream of corruptions once with each method, from the same weights."""

    # No test, though the name begins like one.
    __test__ = False

    def trainings(self) -> list[Training]:
        """One for each seed, which also draws the split and the stream."""
        settings = self.config.test_time
        if not settings.seeds or not settings.methods:
            raise ConfigError("test_time: no seeds or no methods came; give at least one of each.")
        return [training_of_seed(self.config, "seed", self.config.modules.student, seed) for seed in settings.seeds]

    def adaptation(self, name: str, network: nn.Module, source: Sequence[Tensor]) -> Adaptation:
        """A method's adaptation of a network; EATA is given inputs of training."""
        settings = instantiate(self.config.test_time.methods[name], _convert_="all")
        if isinstance(settings["method"], EATA):
            settings["method"].source = source
        # Further processes have ended by now.
        return Adaptation(network, rank_local=True, **settings)

    def claims(self) -> tuple[list[Claim], dict[str, float]]:
        """What is claimed of the methods, and which differences would matter."""
        return claims_of(self.config.test_time, map(str, self.config.test_time.methods), TEST_TIME_METRICS)

    def rehearse(self) -> None:
        """Take a step of the first classifier, adapt it to a batch by every method, and read the claims."""
        first, *others = self.trainings()
        self.claims()
        stream, network = corruption_stream(first.datamodule), first.build().get_submodule("network")
        for name in self.config.test_time.methods:
            with self.adaptation(name, network, [stream.train.inputs[:8]]):
                network(stream.test.inputs[:8])
        rehearse_seeds([first], others, self.resumed)

    def perform(self, folder: Path) -> dict[str, dict[str, list[float]]] | None:
        """Train, adapt and report; a method's numbers, one a seed. None in further processes."""
        started, resume = time.perf_counter(), self.config.resume is not None
        kept = KeptNetworks(self.config.cache or cache_folder() / "networks")
        # By method and seed, each corruption's error in each round.
        errors: dict[str, list[list[list[float]]]] = {str(name): [] for name in self.config.test_time.methods}
        clean: list[float] = []
        trained = [training.run_once(kept, folder / "checkpoints", resume=resume) for training in self.trainings()]
        if not first_process():
            return None
        columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console() if Console().is_terminal else Console(width=120)
        with Progress(TextColumn("{task.description}"), *columns, console=console) as progress:
            task = progress.add_task("", total=len(trained) * len(errors))
            for training, network in zip(self.trainings(), (one.network for one in trained), strict=True):
                stream = corruption_stream(training.datamodule)
                logits = predict_logits(network, stream.val)
                clean.append((logits.argmax(dim=-1) != stream.val.target).double().mean().item())
                source = torch.split(stream.train.inputs, stream.stream_batch_size)[
                    : self.config.test_time.source_batches
                ]
                for name, of_seeds in errors.items():
                    progress.update(task, description=f"{name}, {training.name}", advance=1)
                    adaptation = self.adaptation(name, network, source)
                    of_seeds.append(errors_of(adaptation, stream, self.config.test_time.rounds))
        values = {name: _numbers(of_seeds) for name, of_seeds in errors.items()}
        taken = time.perf_counter() - started
        page = self._page(values, errors, clean, stream, taken)
        page.write(folder / "report")
        page.show(taken, folder / "report")
        return values

    def _page(
        self,
        values: Mapping[str, Mapping[str, Sequence[float]]],
        errors: Mapping[str, list[list[list[float]]]],
        clean: Sequence[float],
        stream: CorruptionStream,
        taken: float,
    ) -> Page:
        claims, margins = self.claims()
        judged = judged_claims(claims, values, margins)
        rows = [
            [name, *(spread(seed_interval(numbers[metric]), metric) for metric in TEST_TIME_METRICS)]
            for name, numbers in values.items()
        ]
        means = {name: torch.tensor(of_seeds).mean(dim=0) for name, of_seeds in errors.items()}
        by_kind = [[name, *(f"{100 * one:.1f}" for one in mean.mean(dim=0))] for name, mean in means.items()]
        settings = self.config.test_time
        note = (
            f"{len(clean)} seeds: means and Student's 95 % intervals. The clean error is "
            f"{spread(seed_interval(clean), 'clean_error')} %. The stream is {len(stream.test):,} images, "
            f"{stream.stream_batch_size} at once, at severity {stream.severity}, {settings.rounds} rounds of it, "
            "without a reset; a prediction is from before its batch's step. Learning rates were chosen on another seed."
        )
        return Page(
            title=f"Adaptation to {stream.name}, seeds {', '.join(map(str, settings.seeds))}",
            command=self.command,
            body=[
                Table(["method", *(shown(metric).name for metric in TEST_TIME_METRICS)], rows),
                note,
                "\n".join(one.markdown() for one in judged),
                "![errors](errors.png)",
                Table(["method", *stream.corruptions], by_kind, title="Error by corruption, %"),
            ],
            said=[note, *map(str, judged)],
            numbers={
                "seconds": taken,
                "fingerprint": stream.fingerprint(),
                "values": values,
                "errors": errors,
                "clean_error": clean,
                "claims": [one.plain() for one in judged],
            },
            settings=plain_settings(self.config),
            figures={
                "errors.png": lambda: stream_errors(
                    {name: mean.flatten().tolist() for name, mean in means.items()}, list(stream.corruptions)
                )
            },
        )


def corruption_stream(data: Any) -> CorruptionStream:
    """The data, if they are a stream.

    Raises:
        ConfigError: other data.
    """
    if not isinstance(data, CorruptionStream):
        raise ConfigError(f"test_time: data={data.name} came; give data=corrupted_mnist5k or corrupted_mnist1d.")
    return data


@torch.inference_mode()
def errors_of(adaptation: Adaptation, stream: CorruptionStream, rounds: int) -> list[list[float]]:
    """The error of an adapting network in each round and under each corruption, as the stream goes on."""
    errors, samples = [], len(stream.test) // len(stream.corruptions)
    with adaptation:
        for _ in range(rounds):
            wrong = torch.zeros(len(stream.corruptions), dtype=torch.float64)
            for batch in stream.test_dataloader():
                missed = adaptation.network(batch["inputs"]).argmax(dim=-1) != batch["target"]
                wrong.index_add_(0, batch["domain"], missed.double())
            errors.append((wrong / samples).tolist())
    return errors


def _numbers(errors: Sequence[Sequence[Sequence[float]]]) -> dict[str, list[float]]:
    """The metrics of a method, a number a seed; every corruption has equally many samples."""
    by_round = torch.tensor(errors, dtype=torch.float64).mean(dim=2)
    return {
        "stream_error": by_round.mean(dim=1).tolist(),
        "last_error": by_round[:, -1].tolist(),
        "error_growth": (by_round[:, -1] - by_round[:, 0]).tolist(),
    }
