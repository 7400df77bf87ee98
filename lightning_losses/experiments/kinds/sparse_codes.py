"""Explains a classifier's hidden states by sparse autoencoders of several choices, with several seeds."""

import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.diagnostics.sparse_codes import explained_variance, latent_frequencies
from lightning_losses.experiments.comparison.judged_claims import claims_of
from lightning_losses.experiments.comparison.seeds_page import seeds_page
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.config.instantiate import instantiate
from lightning_losses.experiments.evidence.claims import Claim
from lightning_losses.experiments.kinds.self_supervised import frozen_features
from lightning_losses.experiments.launch import Experiment
from lightning_losses.experiments.loggers.loggers import plain_settings
from lightning_losses.experiments.page import Page
from lightning_losses.experiments.training.training import Training, rehearse_seeds, training_of_seed
from lightning_losses.networks.projected_encoder import without_head
from lightning_losses.networks.sparse_autoencoder import SparseAutoencoder
from lightning_losses.objective import Objective

CODE_METRICS = ("dead_share", "unexplained_variance", "latents_per_sample")


class SparseCoding(Experiment):
    """A classifier of each seed, and a sparse autoencoder of each choice on its hidden states."""

    def classifiers(self) -> list[Training]:
        """The classifier of each seed, which also draws the split."""
        config = self.config
        if not config.sparse_codes.seeds or not config.sparse_codes.choices:
            raise ConfigError("sparse_codes: no seeds or no choices came; give at least one of each.")
        seeds = config.sparse_codes.seeds
        return [training_of_seed(config, "classifier", config.modules.student, seed) for seed in seeds]

    def claims(self) -> tuple[list[Claim], dict[str, float]]:
        """What is claimed of the choices, and which differences would matter."""
        return claims_of(self.config.sparse_codes, self.config.sparse_codes.choices, CODE_METRICS)

    def rehearse(self) -> None:
        """Take a step of the first classifier and of every autoencoder, and read the claims."""
        self.claims()
        first, *others = self.classifiers()
        rehearse_seeds([first], others, self.resumed)
        for choice in self.config.sparse_codes.choices:
            self._autoencoder(torch.randn(4, 3), choice, seed=0, epochs=1)

    def perform(self, folder: Path) -> dict[str, dict[str, list[float]]] | None:
        """Train, measure and report; the numbers by choice, one a seed. None in further processes."""
        started = time.perf_counter()
        choices = list(self.config.sparse_codes.choices)
        values: dict[str, dict[str, list[float]]] = {run: {name: [] for name in CODE_METRICS} for run in choices}
        sizes = (0, 0, 0)
        for training in self.classifiers():
            trained = training.run(folder / "checkpoints", resume=self.config.resume is not None)
            encoder = copy.deepcopy(trained.network)
            without_head(encoder)
            data = training.datamodule
            train, test = (frozen_features(encoder, split.inputs) for split in (data.train, data.test))
            # So that one learning rate fits hidden states of any size.
            middle, size = train.mean(dim=0), train.std()
            train, test = (train - middle) / size, (test - middle) / size
            sizes = (*train.shape, len(test))
            for choice in choices:
                network = self._autoencoder(train, choice, training.seed, self.config.sparse_codes.epochs)
                for name, value in code_numbers(network, train, test).items():
                    values[choice][name].append(value)
        if not first_process():
            return None
        taken = time.perf_counter() - started
        page = self._page(values, sizes, taken)
        page.write(folder / "report")
        page.show(taken, folder / "report")
        return values

    def _autoencoder(
        self, hidden: Float[Tensor, "samples features"], choice: str, seed: int, epochs: int
    ) -> SparseAutoencoder:
        """A trained autoencoder; the same seed gives all choices the same first weights and batches."""
        settings = self.config.sparse_codes
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = SparseAutoencoder(
                hidden.shape[1], settings.latents, settings.k, choice, dead_after=settings.dead_after  # type: ignore[arg-type]
            )  # fmt: skip
            objective = instantiate(self.config.objective)
            trained_autoencoder(network, objective, hidden, epochs, settings.batch_size, settings.lr)
        return network

    def _page(self, values: Mapping[str, Mapping[str, Sequence[float]]], sizes: Sequence[int], taken: float) -> Page:
        seeds = ", ".join(map(str, self.config.sparse_codes.seeds))
        return seeds_page(
            values,
            self.claims(),
            title=f"Sparse autoencoders of hidden states on {self.classifiers()[0].datamodule.name}, seeds {seeds}",
            command=self.command,
            settings=plain_settings(self.config),
            heading="choice",
            note=self._note(*sizes),
            picture="codes",
            seconds=taken,
        )

    def _note(self, train: int, features: int, test: int) -> str:
        settings = self.config.sparse_codes
        seeds = len(settings.seeds)
        return (
            f"{seeds} seed{'s' * (seeds > 1)}, each with its own split and classifier: means and Student's 95 % "
            f"intervals. {settings.latents:,} latents explain hidden states of width {features}, {settings.k} of them "
            f"a sample in training, on {train:,} training rows. Measured in evaluation mode: a latent is dead if no "
            f"training row uses it; the variance that is left, and the latents that a sample uses, are of {test:,} "
            "test rows."
        )


def trained_autoencoder(
    network: SparseAutoencoder,
    objective: Objective,
    hidden: Float[Tensor, "samples features"],
    epochs: int,
    batch_size: int,
    lr: float,
) -> None:
    """Train an autoencoder on hidden states in memory, by Adam, and leave it in evaluation mode."""
    optimizer = torch.optim.Adam([*network.train().parameters(), *objective.parameters()], lr=lr)
    network.constrain(optimizer)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(hidden)), batch_size):
            optimizer.zero_grad()
            objective(**network(hidden[rows])).total.backward()
            optimizer.step()
    network.eval()


@torch.no_grad()
def code_numbers(
    network: SparseAutoencoder, train: Float[Tensor, "samples features"], test: Float[Tensor, "rows features"]
) -> dict[str, float]:
    """The share of latents that no training row uses; the test rows' unexplained variance, and the latents they use."""
    frequencies = latent_frequencies(network(train)["codes"])
    output = network(test)
    return {
        "dead_share": float((frequencies == 0).double().mean()),
        "unexplained_variance": 1 - float(explained_variance(test, output["reconstruction"])),
        "latents_per_sample": float((output["codes"] > 0).double().sum(dim=1).mean()),
    }
