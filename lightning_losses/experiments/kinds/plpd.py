"""Trains classifiers on digits whose colour misleads, and compares how well entropy and PLPD tell right from wrong."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.environment.cache_folder import cache_folder
from lightning_losses.experiments.comparison.judged_claims import claims_of, judged_claims
from lightning_losses.experiments.comparison.shown_numbers import shown, spread
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.evidence.claims import Claim
from lightning_losses.experiments.evidence.seed_interval import seed_interval
from lightning_losses.experiments.launch import Experiment
from lightning_losses.experiments.loggers.loggers import plain_settings
from lightning_losses.experiments.page import Page, Table
from lightning_losses.experiments.training.kept_networks import KeptNetworks
from lightning_losses.experiments.training.training import Training, rehearse_seeds, training_of_seed
from lightning_losses.metrics.out_of_distribution import out_of_distribution_detection
from lightning_losses.plots.seed_intervals import seed_intervals
from lightning_losses.test_time import occluded, permuted_pixels, plpd, shuffled_patches
from lightning_losses.test_time.adaptation import row_entropy

PLPD_METRICS = ("auroc", "certain_auroc")
SCORES = ("entropy", "plpd_patch", "plpd_pixel", "plpd_occlusion")
# Of a score: a number a seed for each metric.
Values = dict[str, dict[str, list[float]]]


class PLPD(Experiment):
    """A classifier of each seed, whose right predictions each score is to tell from its wrong ones."""

    def trainings(self) -> list[Training]:
        """One for each seed, which also draws the split and the colours."""
        settings = self.config.plpd
        if not settings.seeds:
            raise ConfigError("plpd: no seeds came; give at least one.")
        return [training_of_seed(self.config, "seed", self.config.modules.student, seed) for seed in settings.seeds]

    def claims(self) -> tuple[list[Claim], dict[str, float]]:
        """What is claimed of the scores, and which differences would matter."""
        return claims_of(self.config.plpd, SCORES, PLPD_METRICS)

    def rehearse(self) -> None:
        """Take a step of the first classifier, score a few images by it, and read the claims."""
        first, *others = self.trainings()
        self.claims()
        images = first.datamodule.test.inputs[:8]
        if images.ndim != 4:
            raise ConfigError(f"plpd: data={first.datamodule.name} came; give images, such as data=coloured_digits.")
        confidences(first.build().get_submodule("network").eval(), images, self.config.plpd.pieces)
        rehearse_seeds([first], others, self.resumed)

    def perform(self, folder: Path) -> Values | None:
        """Train, score and report; a score's numbers, one a seed. None in further processes."""
        started, resume = time.perf_counter(), self.config.resume is not None
        kept = KeptNetworks(self.config.cache or cache_folder() / "networks")
        values: Values = {score: {metric: [] for metric in PLPD_METRICS} for score in SCORES}
        accuracy: list[float] = []
        for training in self.trainings():
            network = training.run_once(kept, folder / "checkpoints", resume=resume).network
            test = training.datamodule.test
            logits, scores = confidences(network, test.inputs, self.config.plpd.pieces)
            right = logits.argmax(dim=-1) == test.target
            accuracy.append(right.double().mean().item())
            certain = -scores["entropy"] < self.config.plpd.entropy_margin * math.log(logits.shape[-1])
            for name, score in scores.items():
                for metric, rows in zip(PLPD_METRICS, (torch.ones_like(certain), certain), strict=True):
                    values[name][metric].append(_auroc(score[rows], right[rows]))
        if not first_process():
            return None
        taken = time.perf_counter() - started
        page = self._page(values, accuracy, taken)
        page.write(folder / "report")
        page.show(taken, folder / "report")
        return values

    def _page(self, values: Values, accuracy: Sequence[float], taken: float) -> Page:
        claims, margins = self.claims()
        judged = judged_claims(claims, values, margins)
        rows = [
            [name, *(spread(seed_interval(numbers[metric]), metric) for metric in PLPD_METRICS)]
            for name, numbers in values.items()
        ]
        settings = self.config.plpd
        note = (
            f"{len(accuracy)} seeds: means and Student's 95 % intervals. How well a score tells right predictions from "
            f"wrong ones, of all test images and of those with an entropy below {settings.entropy_margin:g} log C; an "
            "even guess has 50 %. The classifier is right in "
            f"{spread(seed_interval(accuracy), 'accuracy')} %, where the colour that it learned misleads."
        )
        panels = {
            shown(metric).title: {
                name: [tuple(100 * end for end in seed_interval(numbers[metric]))] for name, numbers in values.items()
            }
            for metric in PLPD_METRICS
        }
        return Page(
            title=f"Right and wrong on {self.config.data._target_.rpartition('.')[2]}, seeds "
            f"{', '.join(map(str, settings.seeds))}",
            command=self.command,
            body=[
                Table(["score", *(shown(metric).name for metric in PLPD_METRICS)], rows),
                note,
                "\n".join(one.markdown() for one in judged),
                "![AUROC](auroc.png)",
            ],
            said=[note, *map(str, judged)],
            numbers={
                "seconds": taken,
                "values": values,
                "accuracy": accuracy,
                "claims": [one.plain() for one in judged],
            },
            settings=plain_settings(self.config),
            figures={"auroc.png": lambda: seed_intervals(panels, stages=["AUROC"])},  # type: ignore[arg-type]
        )


@torch.inference_mode()
def confidences(network: nn.Module, images: Tensor, pieces: int) -> tuple[Tensor, dict[str, Tensor]]:
    """A network's logits, and each score of its predictions, higher where they are to be trusted."""

    def drawn() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    logits = network(images)
    side = min(images.shape[2:]) // 2
    destroyed = {
        "plpd_patch": shuffled_patches(images, pieces, drawn()),
        "plpd_pixel": permuted_pixels(images, drawn()),
        "plpd_occlusion": occluded(images, side, *((each - side) // 2 for each in images.shape[2:])),
    }
    scores = {name: plpd(logits, network(changed)) for name, changed in destroyed.items()}
    return logits, {"entropy": -row_entropy(logits), **scores}


def _auroc(score: Tensor, right: Tensor) -> float:
    # Without any right or wrong one there is nothing to tell.
    if right.all() or not right.any():
        return math.nan
    return float(out_of_distribution_detection(score, ~right).auroc)
