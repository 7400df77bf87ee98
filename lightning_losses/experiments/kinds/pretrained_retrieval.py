"""Trains a sentence model on with several objectives and seeds, and compares what is found before and after."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.experiments.comparison.judged_claims import claims_of
from lightning_losses.experiments.comparison.seeds_page import seeds_page
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.evidence.claims import Claim
from lightning_losses.experiments.kinds.retrieval import check_features, retrieved
from lightning_losses.experiments.launch import Experiment
from lightning_losses.experiments.loggers.loggers import plain_settings
from lightning_losses.experiments.page import Page
from lightning_losses.experiments.training.training import Training, rehearse_seeds, training_of_seed
from lightning_losses.numerics.checks import check_number

BEFORE = "before"
RETRIEVAL_METRICS = ("mrr", "recall_at_1", "recall_at_10", "pooled_auc", "val_mrr")
# Texts that a sentence model embeds at once; padding is cut to the longest of them.
_BATCH = 32


class PretrainedRetrieval(Experiment):
    """The same sentence model of each seed's split, before training and after training with each objective."""

    def objectives(self) -> dict[str, tuple[Any, float]]:
        """Each objective with its learning rate: those of the settings, and the configuration's own."""
        plain: Any = OmegaConf.to_container(self.config.retrieval.objectives, resolve=True)
        own: Any = OmegaConf.to_container(self.config.objective, resolve=True)
        runs = {str(run): (node["objective"], float(node["lr"])) for run, node in plain.items()}
        if all(objective != own for objective, _ in runs.values()):
            runs[" + ".join(own["terms"])] = own, float(self.config.optimizer.lr)
        for run, (_, rate) in runs.items():
            check_number("retrieval", f"lr of {run}", rate, above=0)
        return runs

    def seed_trainings(self) -> list[dict[str, Training]]:
        """For each seed, which also draws the split, the training with each objective."""
        settings = self.config.retrieval
        if not settings.seeds:
            raise ConfigError("retrieval.seeds: none came; give at least one.")
        return [{run: self._training(run, seed) for run in self.objectives()} for seed in map(int, settings.seeds)]

    def claims(self) -> tuple[list[Claim], dict[str, float]]:
        """What is claimed of the objectives, and which differences would matter."""
        return claims_of(self.config.retrieval, [BEFORE, *self.objectives()], RETRIEVAL_METRICS)

    def rehearse(self) -> None:
        """Take a step with the first seed's trainings, and read the claims."""
        self.claims()
        first, *others = self.seed_trainings()
        check_features(next(iter(first.values())))
        rehearse_seeds(first.values(), (one for several in others for one in several.values()), self.resumed)

    def perform(self, folder: Path) -> dict[str, dict[str, list[float]]] | None:
        """Train, measure and report; the numbers by run, one a seed. None in further processes."""
        started = time.perf_counter()
        trainings = self.seed_trainings()
        runs = [BEFORE, *trainings[0]]
        values: dict[str, dict[str, list[float]]] = {run: {name: [] for name in RETRIEVAL_METRICS} for run in runs}
        seconds: dict[str, list[float]] = {run: [] for run in runs}
        for several in trainings:
            first = next(iter(several.values()))
            networks = {BEFORE: (first.build().get_submodule("network"), 0.0)}
            for run, training in several.items():
                trained = training.run(folder / "checkpoints", resume=self.config.resume is not None)
                networks[run] = trained.network, trained.seconds
            for run, (network, taken) in networks.items():
                seconds[run].append(taken)
                test, val = (
                    retrieved(network, split, _BATCH) for split in (first.datamodule.test, first.datamodule.val)
                )
                for metric, value in {**test.numbers(), "val_mrr": val.numbers()["mrr"]}.items():
                    values[run][metric].append(value)
        if not first_process():
            return None
        taken = time.perf_counter() - started
        page = self._page(values, seconds, first, taken)
        page.write(folder / "report")
        page.show(taken, folder / "report")
        return values

    def _training(self, run: str, seed: int) -> Training:
        plain: Any = OmegaConf.to_container(self.config.retrieval.student, resolve=True)
        objective, rate = self.objectives()[run]
        module = OmegaConf.create({**plain, "optimizer": {**plain["optimizer"], "lr": rate}, "objective": objective})
        return training_of_seed(self.config, run, module, seed, shows_inputs=False)

    def _page(
        self,
        values: Mapping[str, Mapping[str, Sequence[float]]],
        seconds: Mapping[str, Sequence[float]],
        last: Training,
        taken: float,
    ) -> Page:
        seeds, data = self.config.retrieval.seeds, last.datamodule
        rates = ", ".join(f"{rate:g} of {run}" for run, (_, rate) in self.objectives().items())
        return seeds_page(
            values,
            self.claims(),
            title=f"A sentence model trained on, on {data.name}, seeds {', '.join(map(str, seeds))}",
            command=self.command,
            settings=plain_settings(self.config),
            heading="run",
            note=(
                f"{len(seeds)} seed{'s' * (len(seeds) > 1)}, each with its own split of files and order: means and "
                f"Student's 95 % intervals. With the last seed {len(data.train):,} training pairs, {len(data.val):,} "
                f"of validation, {len(data.test):,} test queries, each among as many documents. Learning rates: "
                f"{rates}."
            ),
            picture="retrieval",
            seconds=taken,
            training_seconds=seconds,
        )
