"""Retrieval by several vectors of each text: all tokens', those of clusters, or one, over seeds."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor, nn

from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.data.docstring_pairs import DocstringPairs, PairDataset
from lightning_losses.experiments.comparison.judged_claims import claims_of
from lightning_losses.experiments.comparison.seeds_page import seeds_page
from lightning_losses.experiments.comparison.shown_numbers import shown
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.config.instantiate import instantiate
from lightning_losses.experiments.evidence.claims import Claim
from lightning_losses.experiments.evidence.seed_interval import seed_interval
from lightning_losses.experiments.launch import Experiment
from lightning_losses.experiments.loggers.loggers import plain_settings
from lightning_losses.experiments.page import Page
from lightning_losses.metrics.retrieval import own_ranks, retrieval_scores
from lightning_losses.networks.colbert_projection import ColBERTProjection
from lightning_losses.networks.sentence_encoder import SentenceEncoder
from lightning_losses.numerics.checks import check_count, check_number
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.maxsim import maxsim
from lightning_losses.plots.accuracy_against_cost import accuracy_against_cost

VECTOR_METRICS = ("document_vectors", "mrr", "recall_at_1", "recall_at_10", "val_mrr")


class TokenSets(NamedTuple):
    """Vectors of texts' tokens, or of their clusters, and which of them there are."""

    vectors: Float[Tensor, "texts tokens dim"]
    mask: Bool[Tensor, "texts tokens"]


class PairStates(NamedTuple):
    """The frozen hidden states of queries' and documents' tokens."""

    queries: TokenSets
    documents: TokenSets

    @property
    def dim(self) -> int:
        """D, the width of the states."""
        return int(self.queries.vectors.shape[-1])

    def rows(self, chosen: Tensor) -> "PairStates":
        """Those of some pairs, up to the longest text of each side."""
        masks = [side.mask[chosen] for side in self]
        longest = [max(int(mask.sum(dim=-1).max()), 1) for mask in masks]
        return PairStates(
            *(
                TokenSets(side.vectors[chosen, :length], mask[:, :length])
                for side, mask, length in zip(self, masks, longest, strict=True)
            )
        )


class MultiVectorRetrieval(Experiment):
    """A projection of a frozen sentence model's token states, trained by MaxSim with and without clusters."""

    def claims(self) -> tuple[list[Claim], dict[str, float]]:
        """What is claimed of the runs, and which differences would matter."""
        return claims_of(self.config.multi_vector, self._runs, VECTOR_METRICS)

    def rehearse(self) -> None:
        """Read the claims, build the encoder, and take a step of every run on random states."""
        self.claims()
        encoder = self._encoder()
        self._data(self.config.multi_vector.seeds[0])
        random = TokenSets(torch.randn(4, 6, encoder.dim), torch.ones(4, 6, dtype=torch.bool))
        projections: dict[str, nn.Module] = {}
        for run in self._runs:
            self._numbers(run, projections, [PairStates(random, random)] * 3, seed=0, epochs=1)

    def perform(self, folder: Path) -> dict[str, dict[str, list[float]]] | None:
        """Train, measure and report; the numbers by run, one a seed. None in further processes."""
        started, console = time.perf_counter(), Console(soft_wrap=True, highlight=False)
        settings, encoder = self.config.multi_vector, self._encoder()
        values: dict[str, dict[str, list[float]]] = {run: {name: [] for name in VECTOR_METRICS} for run in self._runs}
        for seed in map(int, settings.seeds):
            data = self._data(seed)
            states = [pair_states(encoder, split) for split in (data.train, data.val, data.test)]
            projections: dict[str, nn.Module] = {}
            for run in values:
                numbers = self._numbers(run, projections, states, seed, settings.epochs)
                for name, value in numbers.items():
                    values[run][name].append(value)
                console.print(f"seed {seed}, {run}: mean reciprocal rank {numbers['mrr']:.3f}")
        if not first_process():
            return None
        taken = time.perf_counter() - started
        page = self._page(values, data, taken)
        page.write(folder / "report")
        page.show(taken, folder / "report")
        return values

    @property
    def _runs(self) -> dict[str, DictConfig]:
        """How each run makes a text's vectors."""
        settings = self.config.multi_vector
        if not settings.seeds or not settings.runs:
            raise ConfigError("multi_vector: no seeds or no runs came; give at least one of each.")
        for size in ("dim", "epochs", "batch_size"):
            check_count("multi_vector", size, settings[size])
        check_number("multi_vector", "lr", settings.lr, above=0)
        for run, node in settings.runs.items():
            before = list(settings.runs)[: list(settings.runs).index(run)]
            of = node.get("projection_of")
            if of is not None and (node.get("objective") is not None or of not in before):
                raise ConfigError(
                    f"multi_vector.runs.{run}.projection_of={of}: give an earlier run, and no objective beside it."
                )
        return {str(run): node for run, node in settings.runs.items()}

    def _encoder(self) -> SentenceEncoder:
        encoder = instantiate(self.config.model)
        if not isinstance(encoder, SentenceEncoder):
            raise ConfigError(f"model: a {type(encoder).__name__} came; give model=sentence_encoder, which has tokens.")
        return encoder.eval().requires_grad_(False)

    def _data(self, seed: int) -> DocstringPairs:
        """The pairs, split by the seed."""
        plain = OmegaConf.to_container(self.config.data, resolve=True)
        assert isinstance(plain, dict)
        data = instantiate(OmegaConf.create({**plain, "split_seed": seed}))
        if not isinstance(data, DocstringPairs) or data.tokenizer is None:
            raise ConfigError("data: give data=docstring_pairs with data.tokenizer, whose token ids the encoder takes.")
        data.setup()
        return data

    def _numbers(
        self, run: str, projections: dict[str, nn.Module], states: Sequence[PairStates], seed: int, epochs: int
    ) -> dict[str, float]:
        """What a run finds with one seed; its projection is added to those of the seed."""
        settings, node = self.config.multi_vector, self._runs[run]
        clustering = None if node.get("clustering") is None else instantiate(node.clustering)
        projection: nn.Module = projections.get(str(node.get("projection_of")), nn.Identity())
        if node.get("objective") is not None:
            with torch.random.fork_rng():
                # All runs of a seed have the same first weights and batches.
                torch.manual_seed(seed)
                projection, objective = ColBERTProjection(states[0].dim, settings.dim), instantiate(node.objective)
                size, rate = settings.batch_size, settings.lr
                trained_projection(projection, clustering, objective, states[0], epochs, size, rate)
        projections[run] = projection
        return vector_numbers(projection, clustering, *states[1:])

    def _page(self, values: Mapping[str, Mapping[str, Sequence[float]]], data: DocstringPairs, taken: float) -> Page:
        settings = self.config.multi_vector
        seeds = len(settings.seeds)
        return seeds_page(
            values,
            self.claims(),
            title=f"Vectors of a text on {data.name}, seeds {', '.join(map(str, settings.seeds))}",
            command=self.command,
            settings=plain_settings(self.config),
            heading="vectors",
            note=(
                f"{seeds} seed{'s' * (seeds > 1)}, each with its own split of files, first weights and order: means "
                f"and Student's 95 % intervals. With the last seed {len(data.train):,} training pairs, "
                f"{len(data.val):,} of validation, {len(data.test):,} test queries, each among as many documents. A "
                f"linear projection to {settings.dim} dimensions is trained on frozen token states for "
                f"{settings.epochs} epochs; runs without an objective compare these states themselves."
            ),
            picture="vectors",
            seconds=taken,
            draw=lambda: _picture(values),
        )


@torch.no_grad()
def pair_states(encoder: SentenceEncoder, split: PairDataset, batch_size: int = 32) -> PairStates:
    """The hidden states of a split's tokens; shorter texts are padded to the longest of their side."""
    return PairStates(*(_states(encoder, texts, batch_size) for texts in (split.queries, split.documents)))


def _states(encoder: SentenceEncoder, texts: Tensor, batch_size: int) -> TokenSets:
    longest = max(int((texts != encoder.tokenizer.padding).sum(dim=-1).max()), 1)
    vectors = torch.zeros(len(texts), longest, encoder.dim)
    mask = torch.zeros(len(texts), longest, dtype=torch.bool)
    for start in range(0, len(texts), batch_size):
        own, kept = encoder.states(texts[start : start + batch_size])
        vectors[start : start + len(own), : own.shape[1]], mask[start : start + len(own), : own.shape[1]] = own, kept
    return TokenSets(vectors, mask)


def token_sets(projection: nn.Module, clustering: nn.Module | None, states: TokenSets) -> TokenSets:
    """The vectors that MaxSim compares: projected states, or the means of their clusters, of length 1."""
    vectors = projection(states.vectors)
    own: Any = states.mask
    if clustering is not None:
        vectors, own = clustering(vectors, own)
    return TokenSets(unit_rows(vectors), own)


def trained_projection(
    projection: nn.Module,
    clustering: nn.Module | None,
    objective: nn.Module,
    states: PairStates,
    epochs: int,
    batch_size: int,
    lr: float,
) -> None:
    """Train a projection of states in memory, by Adam, and leave it in evaluation mode."""
    optimizer = torch.optim.Adam([*projection.train().parameters(), *objective.parameters()], lr=lr)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(states.queries.mask)), batch_size):
            queries, documents = (token_sets(projection, clustering, side) for side in states.rows(rows))
            tensors = {
                "token_embeddings": queries.vectors,
                "token_embeddings_b": documents.vectors,
                "token_mask": queries.mask,
                "token_mask_b": documents.mask,
            }
            optimizer.zero_grad()
            objective(**tensors).total.backward()
            optimizer.step()
    projection.eval()


@torch.no_grad()
def vector_numbers(
    projection: nn.Module, clustering: nn.Module | None, val: PairStates, test: PairStates
) -> dict[str, float]:
    """What MaxSim finds of the test pairs, with how many vectors a document, and on validation data its MRR."""
    found = {}
    for name, states in (("val", val), ("test", test)):
        queries, documents = (token_sets(projection, clustering, side) for side in states)
        ranks = own_ranks(maxsim(queries.vectors, documents.vectors, queries.mask, documents.mask, chunk=16))
        found[name] = retrieval_scores(ranks.unsqueeze(0))
    return {
        "document_vectors": float(documents.mask.sum(dim=-1).double().mean()),
        "mrr": found["test"]["MRR"].value,
        "recall_at_1": found["test"]["recall@1"].value,
        "recall_at_10": found["test"]["recall@10"].value,
        "val_mrr": found["val"]["MRR"].value,
    }


def _picture(values: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Recall against the vectors of a document."""
    unit, points = shown("recall_at_10"), {}
    for run, numbers in values.items():
        mean, low, high = (unit.factor * end for end in unit.within(seed_interval(numbers["recall_at_10"])))
        points[run] = (seed_interval(numbers["document_vectors"]).mean, mean, low, high)
    return accuracy_against_cost({"": points}, cost=shown("document_vectors").name, accuracy=unit.name)
