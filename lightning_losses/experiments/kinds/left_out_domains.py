"""Leaves out one domain after another, and compares what objectives that compare domains reach in it."""

import copy
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omegaconf import DictConfig, ListConfig, OmegaConf

from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.checkpoints.resumption import check_resumption
from lightning_losses.environment.cache_folder import cache_folder
from lightning_losses.experiments.comparison.judged_claims import JudgedClaim, claims_of, judged_claims
from lightning_losses.experiments.comparison.shown_numbers import shown, spread
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.evidence.claims import Claim
from lightning_losses.experiments.evidence.seed_interval import seed_interval
from lightning_losses.experiments.launch import Experiment
from lightning_losses.experiments.loggers.loggers import plain_settings
from lightning_losses.experiments.page import Page, Table
from lightning_losses.experiments.training.evaluation import predict_logits
from lightning_losses.experiments.training.kept_networks import KeptNetworks
from lightning_losses.experiments.training.training import Trained, Training, training_of
from lightning_losses.plots.seed_intervals import Interval, seed_intervals

DOMAIN_METRICS = ("mean_accuracy", "worst_accuracy", "val_accuracy")
ORACLE = "chosen by the test domain"
_RESTART = "lightning_losses.callbacks.interventions.restart_optimizer.RestartOptimizer"


class Scored(NamedTuple):
    """What one training reached: on validation samples of its own domains, and in the domain that is left out."""

    val_accuracy: float
    accuracy: float


class Job(NamedTuple):
    """One training of a bed: an objective, the value of its tuned parameter (None: as it is), what is left out."""

    objective: str
    value: Any
    left_out: int
    seed: int


class Choice(NamedTuple):
    """The value of a tuned parameter that counts (None: nothing is tuned), and what each seed reached with it."""

    value: Any
    seeds: list[Scored]


# Of a bed's jobs.
Scores = dict[Job, Scored]
# By row of the table and domain that is left out.
Choices = dict[str, dict[int, Choice]]
# Of a bed's rows of the table: by label and metric a number a seed, and by label and domain too.
Values = dict[str, dict[str, list[float]]]


class LeftOutDomains(Experiment):
    """Several data sets in domains; of each every domain is left out once, for every objective and seed.

    Where an objective has a tuned parameter, the value with the best mean validation accuracy over the seeds counts,
    for each domain that is left out by itself. A second row has the value with the best accuracy in the domain that is
    left out, which nobody could know: it tells what a better choice could give.
    """

    def beds(self) -> dict[str, DictConfig]:
        """The settings of each data set, by its label."""
        beds = {str(name): node for name, node in self.config.domains.beds.items() if node is not None}
        if not beds or not self.config.domains.seeds or not self.config.domains.objectives:
            raise ConfigError("domains: no beds, objectives or seeds came; give at least one of each.")
        if len(set(self.config.domains.seeds)) < len(self.config.domains.seeds):
            raise ConfigError(f"domains: seeds={list(self.config.domains.seeds)} came; give each once.")
        return beds

    def jobs(self, bed: DictConfig) -> Iterator[Job]:
        """All trainings of a data set."""
        count = int(bed.data.num_domains) + 1
        left_out = range(count) if bed.left_out is None else bed.left_out
        if unknown := sorted(set(bed.tuned or {}) - set(self.config.domains.objectives)):
            raise ConfigError(f"domains: {unknown[0]} is tuned, and not among domains.objectives.")
        for name, places in (bed.tuned or {}).items():
            if places is not None and [bool(values) for values in map(_listing, places.values())] != [True]:
                raise ConfigError(
                    f"domains: tuned.{name}={OmegaConf.to_container(places)} came; give one parameter, with a list of "
                    "its values."
                )
        for domain in left_out:
            if not 0 <= domain < count:
                raise ConfigError(f"domains: left_out={domain} came for {count} domains; give 0 to {count - 1}.")
            for name in self.config.domains.objectives:
                tuned = (bed.tuned or {}).get(name)
                for value in [None] if tuned is None else next(iter(tuned.values())):
                    for seed in self.config.domains.seeds:
                        yield Job(str(name), value, domain, seed)

    def training(self, label: str, bed: DictConfig, job: Job) -> Training:
        """A training, with the objective, the network and the module that the settings make of the data."""
        config = copy.deepcopy(self.config)
        config.data = OmegaConf.merge(bed.data, {"test_domain": job.left_out, "split_seed": job.seed})
        config.objective = config.domains.objectives[job.objective]
        if job.value is not None:
            (place,) = bed.tuned[job.objective]
            OmegaConf.update(config.objective, place, job.value, force_add=False)
        module = OmegaConf.create({"module": OmegaConf.to_container(config.modules.student, resolve=True)}).module
        value = "" if job.value is None else f"-{_word(job.value)}"
        return training_of(
            config,
            f"{label}-without-{job.left_out}-{job.objective}{value}-{job.seed}",
            module,
            data=OmegaConf.create({"data": OmegaConf.to_container(config.data, resolve=True)}).data,
            trainer=OmegaConf.merge(config.trainer, bed.trainer or {}),
            callbacks=_restarts(module.objective),
            seed=job.seed,
        )

    def claims(self, bed: DictConfig) -> tuple[list[Claim], dict[str, float]]:
        """What is claimed of a data set's rows, and which differences would matter."""
        return claims_of(bed, self._rows(bed), DOMAIN_METRICS)

    def rehearse(self) -> None:
        """Read the claims, and take a step with the first seed of every objective, the first domain left out."""
        for label, bed in self.beds().items():
            self.claims(bed)
            jobs = list(self.jobs(bed))
            first = jobs[0]
            for job in jobs:
                training = self.training(label, bed, job)
                if (job.left_out, job.seed) == (first.left_out, first.seed):
                    training.rehearse(self.resumed)
                elif self.resumed is not None:
                    check_resumption(self.resumed / training.name, training.identity, training.build())

    def perform(self, folder: Path) -> dict[str, Values] | None:
        """Train, choose, measure and report; the numbers by bed and row, one a seed. None in further processes."""
        started, resume = time.perf_counter(), self.config.resume is not None
        kept = KeptNetworks(self.config.cache or cache_folder() / "networks")
        choices: dict[str, Choices] = {}
        names: dict[str, dict[int, str]] = {}
        for label, bed in self.beds().items():
            scores: Scores = {}
            for job in self.jobs(bed):
                training = self.training(label, bed, job)
                trained = training.run_once(kept, folder / "checkpoints", resume=resume)
                scores[job] = _scored(trained, training.datamodule)
                data: Any = training.datamodule
                names.setdefault(label, {})[job.left_out] = data.domain_names[job.left_out]
            choices[label] = self._choices(bed, scores)
        if not first_process():
            return None
        values = {label: {row: _values(own) for row, own in rows.items()} for label, rows in choices.items()}
        taken = time.perf_counter() - started
        page = self._page(values, choices, names, taken)
        page.write(folder / "report")
        page.show(taken, folder / "report")
        return values

    def _rows(self, bed: DictConfig) -> list[str]:
        tuned = bed.tuned or {}
        names = [str(name) for name in self.config.domains.objectives]
        return [row for name in names for row in ([name, f"{name}, {ORACLE}"] if name in tuned else [name])]

    def _choices(self, bed: DictConfig, scores: Scores) -> Choices:
        """By row and domain that was left out, the value that counts, and what it reached."""
        left_out = sorted({job.left_out for job in scores})
        choices: Choices = {}
        for row in self._rows(bed):
            name, _, oracle = row.partition(", ")
            by: Literal["accuracy", "val_accuracy"] = "accuracy" if oracle else "val_accuracy"
            choices[row] = {domain: chosen(scores, name, domain, by) for domain in left_out}
        return choices

    def _page(
        self,
        values: Mapping[str, Values],
        choices: Mapping[str, Choices],
        names: Mapping[str, Mapping[int, str]],
        taken: float,
    ) -> Page:
        judged: dict[str, list[JudgedClaim]] = {}
        for label, bed in self.beds().items():
            claims, margins = self.claims(bed)
            judged[label] = judged_claims(claims, values[label], margins)
        body: list[str | Table] = [self._note()]
        for label in values:
            body += [f"## {label}", _table(values[label], choices[label], names[label]), _listed(judged[label])]
        every = [one for claims in judged.values() for one in claims]
        return Page(
            title=f"Domains that are left out, seeds {', '.join(map(str, self.config.domains.seeds))}",
            command=self.command,
            body=[*body, "![accuracy in the domains that are left out](domains.png)"],
            said=[self._note(), *map(str, every)],
            numbers={
                "seconds": taken,
                "values": values,
                "chosen": {
                    label: {row: {str(k): one.value for k, one in own.items()} for row, own in rows.items()}
                    for label, rows in choices.items()
                },
                "claims": {label: [one.plain() for one in claims] for label, claims in judged.items()},
            },
            settings=plain_settings(self.config),
            figures={
                "domains.png": lambda: seed_intervals(
                    _panels(values),
                    stages=["chosen by validation", ORACLE],
                    reference=next(iter(self.config.domains.objectives)),
                )
            },
        )

    def _note(self) -> str:
        return (
            "Accuracy in the domain that is left out, of the weights after the last epoch; mean and worst over the "
            "domains that were left out one by one. What is chosen, is chosen by validation samples of the domains of "
            f"training. A row “{ORACLE}” has the best of the same values by the domain that is left out, which "
            "nobody knows in practice. Intervals are Student's over the seeds."
        )


def chosen(scores: Scores, objective: str, left_out: int, by: Literal["val_accuracy", "accuracy"]) -> Choice:
    """Of an objective without a domain the value of its parameter with the best mean over the seeds.

    Example:
        >>> scores = {Job("irm", 1, 0, 5): Scored(0.9, 0.2), Job("irm", 100, 0, 5): Scored(0.8, 0.6)}
        >>> [chosen(scores, "irm", 0, by).value for by in ("val_accuracy", "accuracy")]
        [1, 100]
    """
    groups: dict[Any, list[Scored]] = {}
    for job, score in scores.items():
        if (job.objective, job.left_out) == (objective, left_out):
            groups.setdefault(job.value, []).append(score)
    return Choice(*max(groups.items(), key=lambda group: statistics.fmean(getattr(score, by) for score in group[1])))


def _values(choices: Mapping[int, Choice]) -> dict[str, list[float]]:
    """Of a row: a number a seed of each metric, and of each domain that was left out."""
    seeds = list(zip(*(choice.seeds for choice in choices.values()), strict=True))
    return {
        "mean_accuracy": [statistics.fmean(one.accuracy for one in seed) for seed in seeds],
        "worst_accuracy": [min(one.accuracy for one in seed) for seed in seeds],
        "val_accuracy": [statistics.fmean(one.val_accuracy for one in seed) for seed in seeds],
        **{_without(domain): [one.accuracy for one in choice.seeds] for domain, choice in choices.items()},
    }


def _listing(values: Any) -> list[Any]:
    return list(values) if isinstance(values, ListConfig) else []


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _without(domain: int) -> str:
    return f"accuracy without {domain}"


def _restarts(objective: DictConfig) -> DictConfig | None:
    """Where the weight of a term switches, the optimizer begins anew."""
    weights = [term.get("weight") for term in objective.terms.values()]
    places = {float(weight.at) for weight in weights if isinstance(weight, DictConfig) and "at" in weight}
    made = {f"restart_{place:g}": {"_target_": _RESTART, "at": place} for place in sorted(places)}
    return OmegaConf.create(made) if made else None


def _scored(trained: Trained, data: Any) -> Scored:
    parts = (data.val, data.test)
    return Scored(
        *(
            (predict_logits(trained.network, part).argmax(dim=-1) == part.target).double().mean().item()
            for part in parts
        )
    )


def _table(values: Values, choices: Choices, names: Mapping[int, str]) -> Table:
    metrics = [(metric, metric) for metric in DOMAIN_METRICS] + [(_without(domain), "accuracy") for domain in names]
    heads = ["objective", *(shown(metric).name for metric in DOMAIN_METRICS), *(f"without {names[k]}" for k in names)]
    rows = [
        [
            row,
            *(spread(seed_interval(numbers[column]), metric) for column, metric in metrics),
            ", ".join("" if one.value is None else _word(one.value) for one in choices[row].values()).strip(", "),
        ]
        for row, numbers in values.items()
    ]
    return Table([*heads, "chosen"], rows, right=1)


def _listed(judged: Sequence[JudgedClaim]) -> str:
    return "\n".join(one.markdown() for one in judged)


def _panels(values: Mapping[str, Values]) -> dict[str, dict[str, list[Interval]]]:
    """A panel for the mean and the worst accuracy of each bed, with both choices of an objective in one row."""
    panels: dict[str, dict[str, list[Interval]]] = {}
    for metric, word in (("mean_accuracy", "mean"), ("worst_accuracy", "worst")):
        for label, rows in values.items():
            panel: dict[str, list[Interval]] = {}
            for row, numbers in rows.items():
                mean, low, high = seed_interval([100 * number for number in numbers[metric]]).within(0.0, 100.0)
                panel.setdefault(row.partition(", ")[0], []).append((mean, low, high))
            panels[f"{label}: {word} (%)"] = panel
    return panels
