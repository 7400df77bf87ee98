"""Distils a sentence model into small encoders by several objectives, and reports how well each finds documents."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_losses.data.docstring_pairs import DocstringPairs, PairDataset
from lightning_losses.environment.cache_folder import cache_folder
from lightning_losses.experiments.config.instantiate import instantiate
from lightning_losses.experiments.launch import command
from lightning_losses.experiments.loggers.loggers import plain_settings
from lightning_losses.experiments.training.training import Training
from lightning_losses.metrics.retrieval import RetrievalScore, retrieval_ranks, retrieval_scores
from lightning_losses.plots.seed_intervals import seed_intervals
from lightning_losses.plots.style import save_figure
from lightning_losses.teachers import CachedLogits, load_cached_teacher
from lightning_losses.teachers.cache_teacher import cache_teacher

METRICS = ("recall@1", "recall@10", "MRR")
# Wide enough for every cell, whatever the terminal says.
_WIDTH = 150


class EmbeddingTraining(Training):
    """How one encoder is trained; its module needs no example of the inputs."""

    def examples(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class TokenizedTexts(Dataset[dict[str, Tensor]]):
    """The queries and documents of all pairs as a teacher takes them: of pair i at 2 i and 2 i + 1.

    Args:
        data: the pairs.
        teacher: has `tokenize`.
    """

    def __init__(self, data: DocstringPairs, teacher: Any) -> None:
        self.inputs: Int[Tensor, "texts time"] = teacher.tokenize([text for pair in data.pairs for text in pair])

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        return {"inputs": self.inputs[position]}


class EncoderScores(NamedTuple):
    """What an encoder is worth.

    Attributes:
        label: what tables and figures call it.
        before: its scores untrained; None for the teacher.
        after: its scores.
        parameters: their number.
        seconds: of training, of all seeds.
    """

    label: str
    before: dict[str, RetrievalScore] | None
    after: dict[str, RetrievalScore]
    parameters: int
    seconds: float

    def cells(self) -> list[str]:
        """The table's line."""
        before = "–" if self.before is None else f"{self.before['MRR'].value:.3f}"
        seconds = "–" if math.isnan(self.seconds) else f"{self.seconds:.1f}"
        return [self.label, before, *(str(self.after[name]) for name in METRICS), f"{self.parameters:,}", seconds]


COLUMNS = ("encoder", "MRR before", *METRICS, "parameters", "seconds")


def students(config: DictConfig) -> dict[str, list[EmbeddingTraining]]:
    """How the student is trained by each objective, once a seed."""
    found = {}
    for name, objective in config.embeddings.objectives.items():
        module = OmegaConf.create(
            {
                **cast(dict[str, Any], OmegaConf.to_container(config.embeddings.student, resolve=True)),
                "objective": OmegaConf.to_container(objective, resolve=True),
            }
        )
        found[str(name)] = [
            EmbeddingTraining(
                name=f"{name}-{seed}",
                module=module,
                data=config.data,
                trainer=config.trainer,
                scheduler=config.get("scheduler") or None,
                callbacks=config.get("callbacks") or None,
                seed=seed,
            )
            for seed in config.embeddings.seeds
        ]
    return found


def rehearse(config: DictConfig) -> None:
    """Take one step by every objective, the teacher's vectors drawn at random; the teacher itself is built too."""
    teacher = instantiate(config.teacher)
    for trainings in students(config).values():
        data = cast(DocstringPairs, trainings[0].datamodule)
        vectors = nn.functional.normalize(torch.randn(2 * len(data.pairs), teacher.dim), dim=-1)
        batch = data.train.__getitems__(list(range(min(8, len(data.train)))))
        loss: Any = trainings[0].build(CachedLogits(vectors)).training_step(batch, 0)
        loss["loss"].backward()


def distill_embeddings(config: DictConfig, folder: Path) -> list[EncoderScores]:
    """Train what the experiment names, and write the report into the run's folder.

    The teacher's vectors are made once, and kept by `cache_teacher`.
    """
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
    seconds = time.perf_counter() - started
    _write(config, scores, data, folder / "report", seconds)
    _show(config, scores, data)
    Console(soft_wrap=True, highlight=False).print(f"{seconds:.0f} s. The report is in {folder / 'report'}")
    return scores


@torch.no_grad()
def ranks(network: nn.Module, split: PairDataset) -> Int[Tensor, "1 pairs"]:
    """The place of each query's document, for an encoder of hashed features."""
    network = network.eval().cpu()
    return ranks_of_vectors(network(split.queries), network(split.documents))


def ranks_of_vectors(
    queries: Float[Tensor, "pairs dim"], documents: Float[Tensor, "pairs dim"]
) -> Int[Tensor, "1 pairs"]:
    """The place of each query's document, for one encoder."""
    return retrieval_ranks(queries.float(), documents.float()).unsqueeze(0)


def _note(config: DictConfig, data: DocstringPairs) -> str:
    count = len(config.embeddings.seeds)
    return (
        f"{len(data.train):,} training pairs, {len(data.val):,} of validation; scores over {len(data.test):,} test "
        f"queries and as many documents, means over {count} seed{'s' * (count > 1)} with 95 % bootstrap intervals over "
        f"the queries; text {data.fingerprint()[:12]}."
    )


def _title(config: DictConfig, data: DocstringPairs) -> str:
    return f"Retrieval on {data.name}, seeds {', '.join(map(str, config.embeddings.seeds))}"


def _write(config: DictConfig, scores: list[EncoderScores], data: DocstringPairs, folder: Path, seconds: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nothing = (math.nan, math.nan)
    panels = {
        metric: {
            score.label: [
                nothing if stage is None else _interval(stage[metric]) for stage in (score.before, score.after)
            ]
            for score in scores
        }
        for metric in METRICS
    }
    save_figure(seed_intervals(panels, stages=["before", "after"], reference="teacher"), folder / "retrieval.png")
    content = {
        "title": _title(config, data),
        "command": command(),
        "seconds": seconds,
        "fingerprint": data.fingerprint(),
        "encoders": [
            {
                "label": score.label,
                "before": None if score.before is None else _plain(score.before),
                "after": _plain(score.after),
                "parameters": score.parameters,
                "seconds": None if math.isnan(score.seconds) else score.seconds,
            }
            for score in scores
        ],
        "pictures": ["retrieval.png"],
        "settings": plain_settings(config),
    }
    _replace(folder / "report.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    lines = [f"# {_title(config, data)}", "", f"`{command()}`", "", f"| {' | '.join(COLUMNS)} |"]
    lines += ["|---" + "|---:" * (len(COLUMNS) - 1) + "|", *(f"| {' | '.join(score.cells())} |" for score in scores)]
    lines += ["", _note(config, data), "", "![retrieval](retrieval.png)", ""]
    _replace(folder / "report.md", "\n".join(lines))


def _interval(score: RetrievalScore) -> tuple[float, float]:
    return score.value, (score.high - score.low) / 2


def _plain(scores: dict[str, RetrievalScore]) -> dict[str, dict[str, float]]:
    return {name: score._asdict() for name, score in scores.items()}


def _show(config: DictConfig, scores: list[EncoderScores], data: DocstringPairs) -> None:
    """Print the table, whole, however narrow the terminal says it is."""
    table = Table(
        title=_title(config, data),
        title_justify="left",
        title_style="bold",
        caption=_note(config, data),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "encoder" else "right", no_wrap=True)
    for score in scores:
        table.add_row(*score.cells())
    Console(width=max(Console().width, _WIDTH)).print(table)


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)
