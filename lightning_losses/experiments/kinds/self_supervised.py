"""Trains a network without labels with several seeds, and measures how well its features tell the classes."""

import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.data import ImageData
from lightning_losses.diagnostics.linear_heads import logistic_head
from lightning_losses.experiments.comparison.judged_claims import claims_of
from lightning_losses.experiments.comparison.seeds_page import seeds_page
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.evidence.claims import Claim
from lightning_losses.experiments.kinds.classification import ScoredStudent
from lightning_losses.experiments.loggers.loggers import plain_settings
from lightning_losses.experiments.page import Page
from lightning_losses.experiments.training.training import (
    Trained,
    Training,
    rehearse_seeds,
    training_of,
    training_of_seed,
)
from lightning_losses.metrics.neighbours import knn_accuracy
from lightning_losses.networks.projected_encoder import ProjectedEncoder, without_head
from lightning_losses.objective import Term

# Whose features are measured: those of first weights, of the objective, and of the same network with the labels alone.
RUNS = ("untrained", "pretrained", "supervised")
FEATURE_METRICS = ("knn_accuracy", "probe_accuracy")


class SelfSupervisedTraining(ScoredStudent):
    """Networks that learn without labels; their frozen features are measured beside two others' of the same seed."""

    def trainings(self) -> dict[str, Training]:
        """The student of the run's seed."""
        config = self.config
        return {"student": training_of(config, "student", config.modules.student, shows_inputs=False)}

    def nll(self, network: nn.Module, student: Training) -> float:
        """There is none: embeddings have no likelihood."""
        raise ConfigError("learning_rates: they are compared by NLL, which embeddings don't have; give settings.")

    def numbers(self, trained: Trained, student: Training) -> dict[str, float]:
        """The accuracy of nearest neighbours and of a linear classifier of the frozen features."""
        return feature_accuracies(encoder_of(trained.network), student.datamodule, self._neighbours)

    @property
    def _neighbours(self) -> int:
        return int(self.config.contrastive.neighbours)

    def seed_trainings(self) -> list[tuple[Training, Training]]:
        """The student and the supervised network of each seed, which also draws the split."""
        config = self.config
        if not config.contrastive.seeds:
            raise ConfigError("contrastive.seeds: none came; give at least one.")
        return [
            (
                training_of_seed(config, "student", config.modules.student, seed, shows_inputs=False),
                training_of_seed(config, "supervised", config.modules.baseline, seed, shows_inputs=True),
            )
            for seed in config.contrastive.seeds
        ]

    def claims(self) -> tuple[list[Claim], dict[str, float]]:
        """What is claimed of the features, and which differences would matter."""
        return claims_of(self.config.contrastive, RUNS, FEATURE_METRICS)

    def rehearse(self) -> None:
        """Take a step with the first seed's networks, and read the claims."""
        self.claims()
        first, *others = self.seed_trainings()
        _check_terms(first[0].build().get_submodule("objective"))
        rehearse_seeds(first, (one for pair in others for one in pair), self.resumed)

    def perform(self, folder: Path) -> dict[str, dict[str, list[float]]] | None:
        """Train, measure and report; the accuracies by run, a number a seed. None in further processes."""
        started = time.perf_counter()
        values: dict[str, dict[str, list[float]]] = {run: {name: [] for name in FEATURE_METRICS} for run in RUNS}
        seconds: dict[str, list[float]] = {run: [] for run in RUNS}
        for student, supervised in self.seed_trainings():
            networks: dict[str, tuple[nn.Module, float]] = {
                "untrained": (student.build().get_submodule("network"), 0.0)
            }
            for run, training in (("pretrained", student), ("supervised", supervised)):
                trained = training.run(folder / "checkpoints", resume=self.config.resume is not None)
                networks[run] = trained.network, trained.seconds
            for run, (network, taken) in networks.items():
                seconds[run].append(taken)
                found = feature_accuracies(encoder_of(network), student.datamodule, self._neighbours)
                for metric in FEATURE_METRICS:
                    values[run][metric].append(found[metric])
        if not first_process():
            return None
        taken = time.perf_counter() - started
        page = self._page(values, seconds, student.datamodule, taken)
        page.write(folder / "report")
        page.show(taken, folder / "report")
        return values

    def _page(
        self,
        values: Mapping[str, Mapping[str, Sequence[float]]],
        seconds: Mapping[str, Sequence[float]],
        data: ImageData,
        taken: float,
    ) -> Page:
        objective = " + ".join(map(str, self.config.objective.terms))
        return seeds_page(
            values,
            self.claims(),
            title=f"Features of {data.name} without labels, seeds {', '.join(map(str, self.config.contrastive.seeds))}",
            command=self.command,
            settings=plain_settings(self.config),
            heading="features",
            note=self._note(data),
            picture="features",
            seconds=taken,
            labels={"pretrained": f"pretrained ({objective})"},
            training_seconds=seconds,
            stage="accuracy",
        )

    def _note(self, data: ImageData) -> str:
        seeds, labelled = len(self.config.contrastive.seeds), int((data.train.target >= 0).sum())
        return (
            f"{seeds} seed{'s' * (seeds > 1)}, each with its own split: means and Student's 95 % intervals. "
            f"{len(data.train):,} training rows, {labelled:,} of them with a label, {len(data.test.target):,} test "
            f"rows. Features are frozen: the {self._neighbours} nearest labelled rows vote, and a logistic regression "
            "is fitted to them. The supervised network has the same layers, these labels alone, and no views."
        )


def encoder_of(network: nn.Module) -> nn.Module:
    """What makes a network's features: its encoder, or a copy of it without its head."""
    if isinstance(network, ProjectedEncoder):
        return network.encoder
    bare = copy.deepcopy(network)
    without_head(bare)
    return bare


def _check_terms(objective: nn.Module) -> None:
    """Raise ``ConfigError`` for terms that need what a classifier makes; two views are embedded, and not classified."""
    terms = {name: term for name, term in objective.get_submodule("terms").named_children() if isinstance(term, Term)}
    classify = [name for name, term in terms.items() if term.needs.get("logits")]
    renamed = [name for name, term in terms.items() if term.needs.get("features")]
    if not classify and not renamed:
        return
    changes = [f"'~objective.terms.{name}'" for name in classify]
    changes += [f"'~objective.terms.{name}.inputs'" for name in renamed if name not in classify]
    advice = "give an objective of embeddings, as objective=nt_xent"
    if len(classify) < len(terms):
        advice = f"of this one the rest can be trained, by {' '.join(changes)}"
    raise ConfigError(
        f"objective: {' and '.join(dict.fromkeys(classify + renamed))} need logits or features, and two views are only "
        f"embedded; {advice}."
    )


def feature_accuracies(encoder: nn.Module, data: ImageData, neighbours: int = 20) -> dict[str, float]:
    """What frozen features tell of the classes.

    Args:
        encoder: maps inputs to features.
        data: the labelled rows of its training split are the neighbours, and what the linear probe is fitted to.
        neighbours: how many vote.

    Returns:
        `knn_accuracy` and `probe_accuracy` on the test split, `val_probe_accuracy` on the validation split.
    """
    labelled = data.train.target >= 0
    own, target = frozen_features(encoder, data.train.inputs[labelled]), data.train.target[labelled]
    test, val = frozen_features(encoder, data.test.inputs), frozen_features(encoder, data.val.inputs)
    head = logistic_head(own, target, data.num_classes)
    return {
        "knn_accuracy": float(knn_accuracy(own, target, test, data.test.target, k=neighbours)),
        "probe_accuracy": _accuracy(head.logits(test), data.test.target),
        "val_probe_accuracy": _accuracy(head.logits(val), data.val.target),
    }


@torch.no_grad()
def frozen_features(
    encoder: nn.Module, inputs: Float[Tensor, "samples ..."], batch_size: int = 512
) -> Float[Tensor, "samples features"]:
    """The features of many inputs, in evaluation mode."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = encoder.eval().to(device)
    features = torch.cat([encoder(part.to(device)).float().cpu() for part in torch.split(inputs, batch_size)])
    encoder.cpu()
    return features


def _accuracy(logits: Tensor, target: Tensor) -> float:
    return (logits.argmax(dim=-1) == target).double().mean().item()
