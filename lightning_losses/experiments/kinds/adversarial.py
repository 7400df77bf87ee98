"""Trains networks against attacks by several objectives, and ensembles, and reports what is left under attack."""

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.progress import track
from torch import nn

from lightning_losses.attacks import Attack
from lightning_losses.attacks.for_data import for_data
from lightning_losses.attacks.gradient_attack import GradientAttack
from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.data import ImageData
from lightning_losses.diagnostics.attacked_accuracy import (
    attacked_rows,
    masked_gradient,
    random_draws,
    within_distance,
)
from lightning_losses.environment.cache_folder import cache_folder
from lightning_losses.experiments.comparison.judged_claims import claims_of, judged_claims
from lightning_losses.experiments.comparison.shown_numbers import shown, spread
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.config.instantiate import instantiate
from lightning_losses.experiments.evidence.claims import Claim
from lightning_losses.experiments.evidence.seed_interval import SeedInterval, seed_interval
from lightning_losses.experiments.launch import Experiment
from lightning_losses.experiments.loggers.loggers import plain_settings
from lightning_losses.experiments.page import Page, Table
from lightning_losses.experiments.training.kept_networks import KeptNetworks
from lightning_losses.experiments.training.training import Training, rehearse_seeds, training_of
from lightning_losses.metrics import subgroup_accuracy, tail_accuracy
from lightning_losses.networks.crossmax import CrossMaxEnsemble
from lightning_losses.plots.seed_intervals import seed_intervals
from lightning_losses.teachers.ensemble import TeacherEnsemble

# By the names of `attacked_rows`, what the numbers are called.
_NAMES = {
    "clean": "accuracy",
    **{name: f"{name}_accuracy" for name in ("pgd", "pma", "cw", "random", "transfer", "worst")},
}
ATTACKED_METRICS = (*_NAMES.values(), "tail_accuracy")
MEAN, CROSSMAX = "ensemble", "crossmax"
# The network that attacks on others are transferred from; it is no row of the table.
_SURROGATE = "member-0"


class Adversarial(Experiment):
    """A network of each seed and objective, and ensembles of networks that were trained without attacks.

    Each is attacked through its own gradient, by attacks that were made on another network, and by random points. Those
    on a network come from one that was trained without attacks; those on the ensembles from the mean of the members.
    """

    def methods(self) -> dict[str, Any]:
        """The objectives of the settings by name, and the configuration's own if it is another."""
        chosen = {
            str(name): OmegaConf.to_container(node, resolve=True)
            for name, node in self.config.adversarial.objectives.items()
        }
        own: Any = OmegaConf.to_container(self.config.objective, resolve=True)
        if own not in chosen.values():
            chosen[" + ".join(own["terms"])] = own
        return chosen

    def trainings(self, seed: int) -> dict[str, Training]:
        """The training of each objective, and of each member of the ensembles, of a seed that draws the split too."""
        settings = self.config.adversarial
        trained = {}
        for name, objective in self.methods().items():
            attack = {**_plain(settings.attack), **_plain(settings.attack_of.get(name, {}))}
            trained[name] = self._training(name, seed, objective, {**attack, "seed": seed})
        # Its objective has no attacked inputs.
        plain = _plain(self.config.supervised), _plain(settings.attack)
        for place in range(settings.members):
            # Other first weights and another order of the same samples.
            trained[f"member-{place}"] = self._training(
                f"member-{place}", seed, *plain, own_seed=1000 * (seed + 1) + place
            )
        return trained

    def claims(self) -> tuple[list[Claim], dict[str, float]]:
        """What is claimed of the rows, and which differences would matter."""
        return claims_of(self.config.adversarial, [*self.methods(), MEAN, CROSSMAX], ATTACKED_METRICS)

    def rehearse(self) -> None:
        """Take a step of every objective and one of a member, build the attacks, and read the claims."""
        settings = self.config.adversarial
        if not settings.seeds:
            raise ConfigError("adversarial: no seeds came; give at least one.")
        if not 2 <= settings.k <= settings.members:
            raise ConfigError(
                f"adversarial: k={settings.k} came with members={settings.members}; give a k of at least 2 and as many "
                "members or more."
            )
        if unknown := sorted(set(settings.attack_of) - set(self.methods())):
            raise ConfigError(f"adversarial.attack_of: there is no objective '{unknown[0]}' among the methods.")
        self.claims()
        # Refuses what is no attack.
        _ = self._attacks
        first, *others = (self.trainings(seed) for seed in settings.seeds)
        further = [training for name, training in first.items() if name.startswith("member-")][1:]
        rehearsed = [training for training in first.values() if training not in further]
        rehearse_seeds(rehearsed, [*further, *(one for several in others for one in several.values())], self.resumed)

    def perform(self, folder: Path) -> dict[str, dict[str, list[float]]] | None:
        """Train, attack and report; the numbers by row, one a seed. None in further processes."""
        started, resume = time.perf_counter(), self.config.resume is not None
        kept = KeptNetworks(self.config.cache or cache_folder() / "networks")
        values: dict[str, dict[str, list[float]]] = {}
        for seed in self.config.adversarial.seeds:
            trainings = self.trainings(seed)
            networks = {
                name: training.run_once(kept, folder / "checkpoints", resume=resume).network
                for name, training in trainings.items()
            }
            if not first_process():
                continue
            data = trainings[_SURROGATE].datamodule
            pairs = self._pairs(networks).items()
            quiet = not self.config.trainer.get("enable_progress_bar", True)
            for name, (network, surrogate) in track(pairs, f"attacks, seed {seed}", disable=quiet):
                for metric, value in self.numbers(network, surrogate, data).items():
                    values.setdefault(name, {}).setdefault(metric, []).append(value)
        if not first_process():
            return None
        taken = time.perf_counter() - started
        page = self._page(values, data, taken)
        page.write(folder / "report")
        page.show(taken, folder / "report")
        return values

    def numbers(self, network: nn.Module, surrogate: nn.Module, data: ImageData) -> dict[str, float]:
        """The accuracies of a network on the first test images, by `ATTACKED_METRICS`."""
        settings = self.config.adversarial
        inputs, target = (part[: settings.test_rows] for part in (data.test.inputs, data.test.target))
        attacks = {name: for_data(attack, data) for name, attack in self._attacks.items()}
        first = attacks["pgd"]
        assert isinstance(first, GradientAttack)
        # CW has no ball: what it finds farther off than the radius is no attack.
        nearest = within_distance(attacks.pop("cw"), settings.cw_radius)
        rows = attacked_rows(
            network,
            inputs,
            target,
            attacks,
            surrogates={"network": surrogate},
            random=random_draws(first, settings.draws),
        )
        right = dict(rows.right)
        right["transfer"] = right.pop("transfer/network")
        right["cw"] = attacked_rows(network, inputs, target, {"cw": nearest}).right["cw"]
        of_class = subgroup_accuracy(right["worst"], target, data.num_classes)
        accuracies = {_NAMES[name]: one.double().mean().item() for name, one in right.items()}
        return {**accuracies, "tail_accuracy": tail_accuracy(of_class).item()}

    @cached_property
    def _attacks(self) -> dict[str, Attack]:
        attacks = {str(name): instantiate(node) for name, node in self.config.adversarial.attacks.items()}
        if set(attacks) != {"pgd", "pma", "cw"} or not isinstance(attacks["pgd"], GradientAttack):
            raise ConfigError(
                f"adversarial.attacks: {', '.join(attacks)} came; give pgd, which is transferred too, pma and cw."
            )
        return attacks

    def _training(
        self, name: str, seed: int, objective: Any, attack: Mapping[str, Any], own_seed: int | None = None
    ) -> Training:
        """Of a seed that draws the split, and first weights and order too unless they have one of their own."""
        student = OmegaConf.create(
            {**_plain(self.config.adversarial.student), "objective": objective, "attack": attack}
        )
        data = OmegaConf.create({**_plain(self.config.data), "split_seed": seed})
        own = seed if own_seed is None else own_seed
        return training_of(
            self.config, f"{name}-{seed}", student, data=data, seed=own, shows_inputs=False, callbacks=None
        )

    def _pairs(self, networks: Mapping[str, nn.Module]) -> dict[str, tuple[nn.Module, nn.Module]]:
        """By row, the network that is attacked, and the one that attacks are transferred from."""
        members = [network for name, network in networks.items() if name.startswith("member-")]
        mean = TeacherEnsemble(members, average="logits").eval()
        rows = {name: (network, networks[_SURROGATE]) for name, network in networks.items() if name in self.methods()}
        crossmax = CrossMaxEnsemble(members, self.config.adversarial.k).eval()
        return {**rows, MEAN: (mean, next(iter(rows.values()))[0]), CROSSMAX: (crossmax, mean)}

    def _page(self, values: Mapping[str, Mapping[str, Sequence[float]]], data: ImageData, taken: float) -> Page:
        claims, margins = self.claims()
        judged = judged_claims(claims, values, margins)
        rows = [
            [name, *(spread(seed_interval(numbers[metric]), metric) for metric in ATTACKED_METRICS)]
            for name, numbers in values.items()
        ]
        seeds = ", ".join(map(str, self.config.adversarial.seeds))
        said = [self._note(), *self._masked(values)]
        drawn = {"clean": "accuracy", "PGD": "pgd_accuracy", "PMA": "pma_accuracy", "transfer": "transfer_accuracy"}
        panels = {
            title: {
                name: [SeedInterval(*(100 * end for end in seed_interval(numbers[metric])))]
                for name, numbers in values.items()
            }
            for title, metric in drawn.items()
        }
        return Page(
            title=f"Accuracy under attack on {data.name}, seeds {seeds}",
            command=self.command,
            body=[
                Table(["trained by", *(shown(metric).name for metric in ATTACKED_METRICS)], rows),
                "\n\n".join(said),
                "\n".join(one.markdown() for one in judged),
                "![attacked](attacked.png)",
            ],
            said=[*said, *map(str, judged)],
            numbers={
                "seconds": taken,
                "fingerprint": data.fingerprint(),
                "values": values,
                "claims": [one.plain() for one in judged],
            },
            settings=plain_settings(self.config),
            figures={"attacked.png": lambda: seed_intervals(panels, stages=[""], label="accuracy (%)")},
        )

    def _note(self) -> str:
        settings = self.config.adversarial
        return (
            f"Attacks change each pixel, in [0, 1], by up to {settings.epsilon:g}, and CW, which looks for the nearest "
            f"mistake, the whole image by up to {settings.cw_radius:g} in Euclidean distance. Transfer: PGD on another "
            f"network, one that was trained without attacks, and for {CROSSMAX} on the mean of its {settings.members} "
            f"members. Random: the worst of {settings.draws} points of the ball. Worst: right as it is, under PGD and "
            "under PMA; its tail is the mean of the 30 % of the classes where it is lowest. On the first "
            f"{settings.test_rows} test images."
        )

    def _masked(self, values: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
        """A sentence for each row whose gradient is hidden, and what CrossMax loses."""
        sentences = []
        for name, numbers in values.items():
            mean = {metric: sum(of_seeds) / len(of_seeds) for metric, of_seeds in numbers.items()}
            names = {"worst": "worst", "transfer": "transfer/another network", "random": "random"}
            measured = {told: mean[_NAMES[own]] for own, told in names.items()}
            if sentence := masked_gradient(measured, self.config.adversarial.tolerance):
                sentences.append(f"**{name}**: {sentence}")
        mean = {metric: sum(of_seeds) / len(of_seeds) for metric, of_seeds in values[CROSSMAX].items()}
        white, moved = (100 * mean[metric] for metric in ("worst_accuracy", "transfer_accuracy"))
        sentences.append(
            f"{CROSSMAX} has {100 * mean['accuracy']:.1f} % without an attack, {white:.1f} % under attacks through it, "
            f"and {moved:.1f} % under those that were made on the mean of its members and never saw it."
        )
        return sentences


def _plain(node: Any) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else dict(node)
    return plain
