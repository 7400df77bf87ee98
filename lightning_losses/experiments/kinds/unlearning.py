"""Has a language model forget a package by several objectives, and reports what it forgot and what it kept."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from torch import nn

from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.checkpoints.resumption import check_resumption
from lightning_losses.data.forget_text import ForgetText
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
from lightning_losses.experiments.training.rehearsal import rehearse_step
from lightning_losses.experiments.training.text_records import membership_auc, nats, text_record
from lightning_losses.experiments.training.training import Training, training_of
from lightning_losses.plots.forgetting import forgetting_curves

UNLEARNING_METRICS = ("forget_nll", "unseen_nll", "retain_nll", "membership_auc")
BEFORE, WITHOUT = "before", "never seen"


class Curves(NamedTuple):
    """What the picture shows of the first seed: of each objective by epoch, and of the models around them."""

    objectives: dict[str, dict[str, list[float]]]
    before: dict[str, float]
    without: dict[str, float]


class Unlearning(Experiment):
    """A language model of each seed, one that never saw the text to forget, and one unlearned by each objective.

    A model that is trained without the text is what unlearning aims at: it finds the text as likely as other text of
    its kind, and a membership score tells nothing.
    """

    def objectives(self) -> dict[str, Any]:
        """Those of the settings by name, and the configuration's own if it is another."""
        chosen = {
            str(name): OmegaConf.to_container(node, resolve=True)
            for name, node in self.config.unlearning.objectives.items()
        }
        own = OmegaConf.to_container(self.config.objective, resolve=True)
        if own not in chosen.values():
            assert isinstance(own, dict)
            chosen[" + ".join(own["terms"])] = own
        return chosen

    def language_model(self, seed: int, content: str = "all") -> Training:
        """The training of a seed's language model on all text, or on what is retained."""
        name = f"{'model' if content == 'all' else 'without'}-{seed}"
        module = self.config.unlearning.language_model
        return training_of(self.config, name, module, data=self._data(content), seed=seed, shows_inputs=False)

    def unlearned(self, seed: int) -> dict[str, Training]:
        """The training of each objective from a seed's language model."""
        settings, before = self.config.unlearning, self.language_model(seed)
        student: Any = OmegaConf.to_container(settings.student, resolve=True)
        trainer = OmegaConf.merge(self.config.trainer, settings.trainer)
        return {
            name: training_of(
                self.config,
                f"{name}-{seed}",
                OmegaConf.create({**student, "objective": objective}),
                data=self._data("parts"),
                trainer=trainer,
                seed=seed,
                teacher=before,
                shows_inputs=False,
            )
            for name, objective in self.objectives().items()
        }

    def claims(self) -> tuple[list[Claim], dict[str, float]]:
        """What is claimed of the objectives, and which differences would matter."""
        return claims_of(self.config.unlearning, [BEFORE, WITHOUT, *self.objectives()], UNLEARNING_METRICS)

    def rehearse(self) -> None:
        """Take a step of the language model and of every objective, and read the claims."""
        if not self.config.unlearning.seeds:
            raise ConfigError("unlearning: no seeds came; give at least one.")
        self.claims()
        for seed in self.config.unlearning.seeds:
            first = seed == self.config.unlearning.seeds[0]
            if first:
                self.language_model(seed).rehearse(self.resumed)
            for training in self.unlearned(seed).values():
                assert training.teacher is not None
                module = training.build(training.teacher.build().get_submodule("network"))
                if self.resumed is not None:
                    check_resumption(self.resumed / training.name, training.identity, module)
                if first:
                    parts: Any = training.datamodule.train
                    rehearse_step(module, parts.__getitems__(list(range(min(8, len(parts))))), training.trainer)

    def perform(self, folder: Path) -> dict[str, dict[str, list[float]]] | None:
        """Train, unlearn, measure and report; the numbers by model, one a seed. None in further processes."""
        started, resume = time.perf_counter(), self.config.resume is not None
        kept, checkpoints = KeptNetworks(self.config.cache or cache_folder() / "networks"), folder / "checkpoints"
        values: dict[str, dict[str, list[float]]] = {}
        curves: Curves | None = None

        def note(name: str, network: nn.Module, data: ForgetText) -> dict[str, float]:
            numbers = unlearning_numbers(network, data)
            for metric, value in numbers.items():
                values.setdefault(name, {}).setdefault(metric, []).append(value)
            return numbers

        for seed in self.config.unlearning.seeds:
            trainings = self.unlearned(seed)
            data: Any = next(iter(trainings.values())).datamodule
            before = self.language_model(seed).run_once(kept, checkpoints, resume=resume).network
            note(BEFORE, before, data)
            without = self.language_model(seed, "retained").run_once(kept, checkpoints, resume=resume).network
            note(WITHOUT, without, data)
            histories = {}
            for name, training in trainings.items():
                trained = training.run(checkpoints, teacher=before, resume=resume)
                note(name, trained.network, data)
                histories[name] = trained.history
            curves = curves or Curves(histories, *(_validated(network, data) for network in (before, without)))
        if not first_process() or curves is None:
            return None
        taken = time.perf_counter() - started
        page = self._page(values, curves, data, taken)
        page.write(folder / "report")
        page.show(taken, folder / "report")
        return values

    def _data(self, content: str) -> DictConfig:
        plain: Any = OmegaConf.to_container(self.config.data, resolve=True)
        return OmegaConf.create({**plain, "content": content})

    def _page(
        self, values: Mapping[str, Mapping[str, Sequence[float]]], curves: Curves, data: ForgetText, taken: float
    ) -> Page:
        claims, margins = self.claims()
        judged = judged_claims(claims, values, margins)
        rows = [
            [name, *(spread(seed_interval(numbers[metric]), metric) for metric in UNLEARNING_METRICS)]
            for name, numbers in values.items()
        ]
        seeds = ", ".join(map(str, self.config.unlearning.seeds))
        note = self._note(data)
        return Page(
            title=f"Forgetting {data.package} on {data.name}, seeds {seeds}",
            command=self.command,
            body=[
                Table(["model", *(shown(metric).name for metric in UNLEARNING_METRICS)], rows),
                note,
                "\n".join(one.markdown() for one in judged),
                "![forgetting](forgetting.png)",
            ],
            said=[note, *map(str, judged)],
            numbers={
                "seconds": taken,
                "fingerprint": data.fingerprint(),
                "values": values,
                "curves": curves._asdict(),
                "claims": [one.plain() for one in judged],
            },
            settings=plain_settings(self.config),
            # Beyond twice what an even guess says, how far a model collapsed is not of interest.
            figures={
                "forgetting.png": lambda: forgetting_curves(
                    curves.objectives, curves.before, curves.without, most=2 * EVEN_GUESS
                )
            },
        )

    def _note(self, data: ForgetText) -> str:
        return (
            f"{len(data.forget.text):,} bytes of {data.package} were trained on and are to be forgotten, "
            f"{len(data.unseen.text):,} bytes of its other files were never seen, {len(data.retain.text):,} bytes of "
            "other files are retained. Cross-entropy in nats per byte, in the third column of other files that were "
            f"never seen; an even guess has {EVEN_GUESS:.3f}. Membership: the area under the ROC curve by which the "
            "loss of a block tells what was trained on from what was not, of one package. The model that never saw the "
            "text is what unlearning aims at."
        )


# Of a byte.
EVEN_GUESS = 5.545177444479562


def unlearning_numbers(network: nn.Module, data: ForgetText) -> dict[str, float]:
    """What a model says of the text to forget, of text of its kind and of other text, and what it gives away."""
    forget, unseen = text_record(network, data.forget), text_record(network, data.unseen)
    other: Any = data.test
    return {
        "forget_nll": nats(forget),
        "unseen_nll": nats(unseen),
        "retain_nll": nats(text_record(network, getattr(other, "retain", other))),
        "membership_auc": membership_auc(forget, unseen),
    }


def _validated(network: nn.Module, data: ForgetText) -> dict[str, float]:
    """What validation logs after each epoch of unlearning, of another model."""
    parts: Any = data.val
    return {f"val/{part}_nll": nats(text_record(network, getattr(parts, part))) for part in ("forget", "retain")}
