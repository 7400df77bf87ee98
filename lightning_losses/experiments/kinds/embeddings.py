"""Distils a sentence model into small encoders by several objectives, and reports their retrieval scores."""

import math
import time
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.checkpoints.resumption import check_resumption
from lightning_losses.data.docstring_pairs import DocstringPairs, PairDataset
from lightning_losses.environment.cache_folder import cache_folder
from lightning_losses.experiments.config.instantiate import instantiate
from lightning_losses.experiments.launch import Experiment
from lightning_losses.experiments.loggers.loggers import plain_settings
from lightning_losses.experiments.page import Page, Table
from lightning_losses.experiments.training.rehearsal import rehearse_step
from lightning_losses.experiments.training.training import Training, training_of
from lightning_losses.metrics.retrieval import RetrievalScore, retrieval_ranks, retrieval_scores
from lightning_losses.plots.seed_intervals import Interval, seed_intervals
from lightning_losses.teachers import CachedLogits, load_cached_teacher
from lightning_losses.teachers.cache_teacher import cache_teacher

METRICS = ("recall@1", "recall@10", "MRR")


class TokenizedTexts(Dataset[dict[str, Tensor]]):
    """The tokenised queries and documents of all pairs for the teacher; those of pair i are at 2 i and 2 i + 1.

    Args:
        data: the pairs.
        teacher: a network with `tokenize`.
    """

    def __init__(self, data: DocstringPairs, teacher: Any) -> None:
        self.inputs: Int[Tensor, "texts time"] = teacher.tokenize([text for pair in data.pairs for text in pair])

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        return {"inputs": self.inputs[position]}


class EncoderScores(NamedTuple):
    """The scores of an encoder.

    Attributes:
        label: its name in tables and figures.
        before: its scores before training; None for the teacher.
        after: its scores.
        parameters: the number of parameters.
        seconds: the training time of all seeds.
    """

    label: str
    before: dict[str, RetrievalScore] | None
    after: dict[str, RetrievalScore]
    parameters: int
    seconds: float

    def cells(self) -> list[str]:
        """The table's line."""
        before = "–" if self.before is None else f"{100 * self.before['MRR'].value:.1f}"
        seconds = "–" if math.isnan(self.seconds) else f"{self.seconds:.1f}"
        return [self.label, before, *(_percent(self.after[name]) for name in METRICS), f"{self.parameters:,}", seconds]


COLUMNS = ("encoder", "MRR before, %", *(f"{name}, %" for name in METRICS), "parameters", "seconds")


def students(config: DictConfig) -> dict[str, list[Training]]:
    """The trainings of the student: one for each objective and seed."""
    found = {}
    for name, objective in config.embeddings.objectives.items():
        module = OmegaConf.create(
            {
                **cast(dict[str, Any], OmegaConf.to_container(config.embeddings.student, resolve=True)),
                "objective": OmegaConf.to_container(objective, resolve=True),
            }
        )
        found[str(name)] = [
            training_of(config, f"{name}-{seed}", module, seed=seed, shows_inputs=False)
            for seed in config.embeddings.seeds
        ]
    return found


class EmbeddingDistillation(Experiment):
    """Distils a sentence model into small encoders by several objectives; its vectors are computed once and kept."""

    def rehearse(self) -> None:
        """Take one step with every objective on random teacher vectors; build the teacher too."""
        teacher = instantiate(self.config.teacher)
        for trainings in students(self.config).values():
            data = cast(DocstringPairs, trainings[0].datamodule)
            vectors = nn.functional.normalize(torch.randn(2 * len(data.pairs), teacher.dim), dim=-1)
            batch = data.train.__getitems__(list(range(min(8, len(data.train)))))
            module = trainings[0].build(CachedLogits(vectors))
            for training in trainings if self.resumed is not None else ():
                check_resumption(cast(Path, self.resumed) / training.name, training.identity, module)
            rehearse_step(module, batch, trainings[0].trainer)

    def perform(self, folder: Path) -> list[EncoderScores] | None:
        """Train all encoders and write the report; None in further processes."""
        config = self.config
        started = time.perf_counter()
        chosen = students(config)
        if not chosen or not len(config.embeddings.seeds):
            raise ValueError("embeddings: no objectives or no seeds came; give at least one of each.")
        data = cast(DocstringPairs, next(iter(chosen.values()))[0].datamodule)
        teacher = instantiate(config.teacher)
        home = Path(config.cache or cache_folder() / "networks") / "embeddings"
        cached = load_cached_teacher(cache_teacher(teacher, TokenizedTexts(data, teacher), home, batch_size=32))
        own = ranks_of_vectors(cached(2 * data.test.index), cached(2 * data.test.index + 1))
        parameters = sum(parameter.numel() for parameter in teacher.parameters())
        scores = [EncoderScores("teacher", None, retrieval_scores(own), parameters, math.nan)]
        for name, trainings in chosen.items():
            before, after, seconds = [], [], 0.0
            for training in trainings:
                before.append(ranks(training.build(cached).get_submodule("network"), data.test))
                trained = training.run(folder / "checkpoints", teacher=cached, resume=config.resume is not None)
                after.append(ranks(trained.network, data.test))
                seconds += trained.seconds
            parameters = sum(parameter.numel() for parameter in trained.network.parameters())
            untrained, reached = (retrieval_scores(torch.cat(each)) for each in (before, after))
            scores.append(EncoderScores(name, untrained, reached, parameters, seconds))
        if not first_process():
            return None
        seconds = time.perf_counter() - started
        page = _page(config, scores, data, seconds, self.command)
        page.write(folder / "report")
        page.show(seconds, folder / "report")
        return scores


@torch.no_grad()
def ranks(network: nn.Module, split: PairDataset) -> Int[Tensor, "1 pairs"]:
    """The rank of each query's document, for an encoder of hashed features."""
    network = network.eval().cpu()
    return ranks_of_vectors(network(split.queries), network(split.documents))


def ranks_of_vectors(
    queries: Float[Tensor, "pairs dim"], documents: Float[Tensor, "pairs dim"]
) -> Int[Tensor, "1 pairs"]:
    """The rank of each query's document, from an encoder's vectors."""
    return retrieval_ranks(queries.float(), documents.float()).unsqueeze(0)


def _note(config: DictConfig, data: DocstringPairs) -> str:
    count = len(config.embeddings.seeds)
    return (
        f"{len(data.train):,} training pairs, {len(data.val):,} of validation; scores over {len(data.test):,} test "
        f"queries and as many documents, means over {count} seed{'s' * (count > 1)} with 95 % intervals (Wilson) over "
        f"the queries; text {data.fingerprint()[:12]}."
    )


def _page(config: DictConfig, scores: list[EncoderScores], data: DocstringPairs, seconds: float, command: str) -> Page:
    nothing = RetrievalScore(math.nan, math.nan, math.nan)
    panels = {
        f"{metric} (%)": {
            score.label: [
                _in_percent(nothing if stage is None else stage[metric]) for stage in (score.before, score.after)
            ]
            for score in scores
        }
        for metric in METRICS
    }
    note = _note(config, data)
    return Page(
        title=f"Retrieval on {data.name}, seeds {', '.join(map(str, config.embeddings.seeds))}",
        command=command,
        body=[Table(COLUMNS, [score.cells() for score in scores]), note, "![retrieval](retrieval.png)"],
        said=[note],
        numbers={
            "seconds": seconds,
            "fingerprint": data.fingerprint(),
            "encoders": [
                {
                    "label": score.label,
                    "before": None if score.before is None else _plain(score.before),
                    "after": _plain(score.after),
                    "parameters": score.parameters,
                    "seconds": score.seconds,
                }
                for score in scores
            ],
        },
        settings=plain_settings(config),
        figures={
            "retrieval.png": lambda: seed_intervals(panels, stages=["before", "after"], reference="teacher"),
        },
    )


def _in_percent(score: RetrievalScore) -> Interval:
    return 100 * score.value, 100 * score.low, 100 * score.high


def _percent(score: RetrievalScore) -> str:
    value, low, high = _in_percent(score)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _plain(scores: dict[str, RetrievalScore]) -> dict[str, dict[str, float]]:
    return {name: score._asdict() for name, score in scores.items()}
