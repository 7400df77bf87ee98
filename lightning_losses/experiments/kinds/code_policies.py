"""Teaches a small language model to complete code that parses, by preferences or by policy gradients."""

import copy
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from jaxtyping import Bool, Float, Int
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_losses.callbacks import Progress
from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.data.function_prompts import NEWLINE, as_tokens, completes, function_prompts
from lightning_losses.data.language_batch import LanguageBatch
from lightning_losses.decoding.generate import Generated, generate
from lightning_losses.environment.cache_folder import cache_folder
from lightning_losses.experiments.comparison.judged_claims import claims_of
from lightning_losses.experiments.comparison.seeds_page import seeds_page
from lightning_losses.experiments.config.check_config import ConfigError, check_writable
from lightning_losses.experiments.config.instantiate import instantiate
from lightning_losses.experiments.evidence.claims import Claim
from lightning_losses.experiments.launch import Experiment
from lightning_losses.experiments.loggers.loggers import plain_settings
from lightning_losses.experiments.page import Page
from lightning_losses.experiments.training.kept_networks import KeptNetworks
from lightning_losses.experiments.training.rehearsal import quiet
from lightning_losses.experiments.training.training import Training, rehearse_seeds, training_of_seed
from lightning_losses.modules.policy_gradient_learner import PolicyGradientLearner
from lightning_losses.modules.preference_learner import PreferenceLearner
from lightning_losses.numerics.group_advantage import group_advantage
from lightning_losses.numerics.rloo_advantage import rloo_advantage
from lightning_losses.teachers.reference_records import network_record

POLICY_METRICS = ("parse_rate", "kl_to_base", "completion_length")
BASE = "base"


class Prompts(NamedTuple):
    """Prompts as tokens.

    Attributes:
        tokens: [N, P], padded at the right.
        lengths: [N].
    """

    tokens: Int[Tensor, "prompts longest"]
    lengths: Int[Tensor, " prompts"]

    def repeated(self, times: int) -> "Prompts":
        """Each so many times, one after the other."""
        return Prompts(self.tokens.repeat_interleave(times, dim=0), self.lengths.repeat_interleave(times))


class PromptSplit(Dataset[dict[str, Tensor]]):
    """Prompts, each a sample."""

    def __init__(self, prompts: Prompts) -> None:
        self.prompts = prompts

    def __len__(self) -> int:
        return len(self.prompts.tokens)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        return {"prompts": self.prompts.tokens[position], "prompt_lengths": self.prompts.lengths[position]}


class Pairs(Dataset[dict[str, Any]]):
    """Pairs of a completion that parses and one of the same prompt that doesn't."""

    def __init__(
        self, tokens: Int[Tensor, "rows time"], mask: Bool[Tensor, "rows time"], pairs: Sequence[tuple[int, int]]
    ):
        self.inputs, self.target = tokens[:, :-1], tokens[:, 1:].masked_fill(~mask[:, 1:], -100)
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, position: int) -> dict[str, Any]:
        sides = zip(("chosen", "rejected"), self.pairs[position], strict=True)
        return {side: {"inputs": self.inputs[row], "target": self.target[row]} for side, row in sides}


def parsed(tokens: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]) -> Float[Tensor, " batch"]:
    """1 for each row whose completion, behind its prompt, parses; 0 for the others.

    Example:
        >>> tokens, _ = as_tokens([b"def f():\\n    return 1\\n", b"def f():\\n    return )\\n"])
        >>> parsed(tokens, torch.arange(tokens.shape[1]).expand_as(tokens) >= 20)
        tensor([1., 0.])
    """
    right = []
    for row, drawn in zip(tokens.cpu(), mask.cpu(), strict=True):
        begin = int(drawn.int().argmax()) if drawn.any() else len(row)
        right.append(completes(bytes(row[:begin].tolist()), bytes(row[drawn].tolist())))
    return torch.tensor(right, dtype=torch.float32, device=tokens.device)


def pairs_of(right: Float[Tensor, "prompts samples"], most: int) -> list[tuple[int, int]]:
    """Rows of completions that parse and that don't, of one prompt each, at most so many pairs of a prompt.

    Example:
        >>> pairs_of(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), most=2)
        [(0, 1)]
    """
    pairs, samples = [], right.shape[1]
    for prompt, values in enumerate(right.bool()):
        wins, losses = values.nonzero().flatten().tolist(), (~values).nonzero().flatten().tolist()
        first = prompt * samples
        pairs += [(first + win, first + loss) for win, loss in zip(wins[:most], losses, strict=False)]
    return pairs


class CodePolicies(Experiment):
    """A language model of each seed, tuned by each method to complete functions so that they parse."""

    def bases(self) -> list[Training]:
        """The language model of each seed before it is tuned."""
        tuning = self.config.tuning
        if not tuning.seeds or not tuning.methods:
            raise ConfigError("tuning: no seeds or no methods came; give at least one of each.")
        module = self.config.language_models.student
        return [training_of_seed(self.config, BASE, module, seed, shows_inputs=False) for seed in tuning.seeds]

    def methods(self) -> dict[str, DictConfig]:
        """How each method trains, with its objective: those of the settings, and the configuration's own objective."""
        plain: Any = OmegaConf.to_container(self.config.tuning, resolve=True)
        own: Any = OmegaConf.to_container(self.config.objective, resolve=True)
        methods = {name: {**plain["training"], **node} for name, node in plain["methods"].items()}
        if all(method["objective"] != own for method in methods.values()):
            methods[" + ".join(own["terms"])] = {**plain["training"], "objective": own}
        return {name: OmegaConf.create(method) for name, method in methods.items()}

    def claims(self) -> tuple[list[Claim], dict[str, float]]:
        """What is claimed of the methods, and which differences would matter."""
        return claims_of(self.config.tuning, [BASE, *self.methods()], POLICY_METRICS)

    @abstractmethod
    def tune(self, base: nn.Module, method: str, prompts: Sequence[Prompts], seed: int, **trainer: Any) -> nn.Module:
        """The network that a method makes of the base.

        Args:
            base: the trained language model.
            method: of `methods`.
            prompts: of training and of validation.
            seed: of what is drawn, and of the order.
            **trainer: further arguments of the Trainer.
        """

    def rehearse(self) -> None:
        """Take a step of the base and of every method, and read the claims."""
        self.claims()
        check_writable("cache", self._kept.folder)
        first, *others = self.bases()
        rehearse_seeds([first], others, self.resumed)
        prompts = self._prompts(first)
        few = [Prompts(each.tokens[:8], each.lengths[:8]) for each in prompts[:2]]
        with quiet():
            network = first.build().get_submodule("network")
            for method in self.methods():
                self.tune(network, method, few, seed=0, fast_dev_run=1)

    def perform(self, folder: Path) -> dict[str, dict[str, list[float]]] | None:
        """Train, tune, measure and report; the numbers by method, one a seed. None in further processes."""
        started, console = time.perf_counter(), Console(soft_wrap=True, highlight=False)
        methods = [BASE, *self.methods()]
        values: dict[str, dict[str, list[float]]] = {name: {m: [] for m in POLICY_METRICS} for name in methods}
        seconds: dict[str, list[float]] = {name: [] for name in methods}
        for training in self.bases():
            trained = training.run_once(self._kept, folder / "checkpoints", resume=self.config.resume is not None)
            train, val, test = self._prompts(training)
            for name in methods:
                began = time.perf_counter()
                network = (
                    trained.network if name == BASE else self.tune(trained.network, name, [train, val], training.seed)
                )
                seconds[name].append(trained.seconds if name == BASE else time.perf_counter() - began)
                for metric, value in self._numbers(network, trained.network, test, training.seed).items():
                    values[name][metric].append(value)
                console.print(f"seed {training.seed}, {name}: parse rate {values[name]['parse_rate'][-1]:.3f}")
        if not first_process():
            return None
        taken = time.perf_counter() - started
        page = self._page(values, seconds, len(test.tokens), taken)
        page.write(folder / "report")
        page.show(taken, folder / "report")
        return values

    @property
    def _kept(self) -> KeptNetworks:
        return KeptNetworks(self.config.cache or cache_folder() / "networks")

    def _prompts(self, training: Training) -> list[Prompts]:
        """Those of the training, validation and test split."""
        tuning = self.config.tuning
        longest = self.config.data.block_length - tuning.max_new_tokens
        splits = function_prompts(longest, split_seed=training.seed)
        sizes = (tuning.train_prompts, tuning.test_prompts, tuning.test_prompts)
        return [Prompts(*as_tokens(split[:size])) for split, size in zip(splits, sizes, strict=True)]

    def sample(self, network: nn.Module, prompts: Prompts, seed: int) -> Generated:
        """A completion of each prompt."""
        parts = []
        generator = torch.Generator().manual_seed(seed)
        for tokens, lengths in zip(torch.split(prompts.tokens, 256), torch.split(prompts.lengths, 256), strict=True):
            drawn = generate(
                network,
                tokens,
                self.config.tuning.max_new_tokens,
                prompt_lengths=lengths,
                stop_token=NEWLINE,
                generator=generator,
            )
            parts.append(drawn)
        return Generated(*(torch.cat(fields) for fields in zip(*parts, strict=True)))

    @torch.no_grad()
    def _numbers(self, network: nn.Module, base: nn.Module, prompts: Prompts, seed: int) -> dict[str, float]:
        """What a network's completions of prompts are like; the same random numbers for all networks."""
        drawn = self.sample(network.eval(), prompts.repeated(self.config.tuning.test_samples), seed + 77_777)
        right, kept = parsed(drawn.tokens, drawn.completion_mask), drawn.completion_mask[:, 1:]
        totals = []
        for tokens, mask in zip(torch.split(drawn.tokens, 256), torch.split(kept, 256), strict=True):
            given = LanguageBatch(tokens[:, :-1], {}, tokens[:, 1:].masked_fill(~mask, -100))
            own, before = (network_record("code_policies", each, given).logps for each in (network, base))
            totals.append((own - before).sum(dim=1))
        return {
            "parse_rate": float(right.mean()),
            "kl_to_base": float(torch.cat(totals).mean()),
            "completion_length": float(kept.sum(dim=1).float().mean()),
        }

    def fit(self, module: L.LightningModule, data: Dataset[Any], method: str, seed: int, **trainer: Any) -> nn.Module:
        """The network of a module, trained on batches of data."""
        settings = self.methods()[method]
        loader = DataLoader(
            data, settings.batch_size, shuffle=True, generator=torch.Generator().manual_seed(seed), drop_last=False
        )
        options = {
            "accelerator": self.config.trainer.get("accelerator", "auto"),
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "gradient_clip_val": 1.0,
            "limit_val_batches": 0,
            "callbacks": [Progress(f"{method}, seed {seed}")],
        }
        with quiet():
            L.Trainer(max_epochs=settings.epochs, **options, **trainer).fit(
                module, loader, DataLoader(data, settings.batch_size)
            )
        return module.cpu().get_submodule("network").eval()

    def made(self, settings: DictConfig, kind: type, base: nn.Module, **further: Any) -> Any:
        """A method's module, which begins with the base's weights and has the base as its reference."""
        objective = instantiate(settings.objective)
        return kind(
            copy.deepcopy(base),
            # A kept network is frozen.
            network=copy.deepcopy(base).requires_grad_(True).train(),
            objective=objective,
            optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=0.0),
            **further,
        )

    def _page(
        self, values: Mapping[str, Mapping[str, Sequence[float]]], seconds: Mapping[str, Sequence[float]],
        prompts: int, taken: float,
    ) -> Page:  # fmt: skip
        return seeds_page(
            values,
            self.claims(),
            title=f"{self.title}, seeds {', '.join(map(str, self.config.tuning.seeds))}",
            command=self.command,
            settings=plain_settings(self.config),
            heading="method",
            note=self._note(prompts),
            picture="policies",
            seconds=taken,
            training_seconds=seconds,
        )

    title = "Completions that parse"

    def _note(self, prompts: int) -> str:
        tuning, seeds = self.config.tuning, len(self.config.tuning.seeds)
        return (
            f"{seeds} seed{'s' * (seeds > 1)}, each with its own language model, prompts and samples: means and "
            f"Student's 95 % intervals. A completion counts if it ends the line with something and the whole parses; "
            f"{tuning.test_samples} of each of {prompts} held-out prompts of other files are drawn at temperature 1, "
            "with the same random numbers for all methods. KL to the base is the mean of log p - log p_base of a "
            "method's own completions, in nats. Seconds are of training: of the base its own, of a method what it adds."
        )


class PreferenceTuning(CodePolicies):
    """By pairs of the base's completions of one prompt, of which the one that parses is chosen."""

    title = "Completions that parse, by preferences"
    _drawn: tuple[int, Pairs] | None = None

    def tune(self, base: nn.Module, method: str, prompts: Sequence[Prompts], seed: int, **trainer: Any) -> nn.Module:
        """A method trained on the base's own pairs."""
        module = self.made(self.methods()[method], PreferenceLearner, base)
        return self.fit(module, self._pairs(base, prompts[0], seed, rehearses=bool(trainer)), method, seed, **trainer)

    def _pairs(self, base: nn.Module, prompts: Prompts, seed: int, rehearses: bool) -> Pairs:
        """The base's own pairs; all methods of a seed have the same."""
        if self._drawn is not None and self._drawn[0] == seed and not rehearses:
            return self._drawn[1]
        tuning = self.config.tuning
        drawn = self.sample(base.eval(), prompts.repeated(tuning.samples), seed)
        right = parsed(drawn.tokens, drawn.completion_mask).view(-1, tuning.samples)
        pairs = pairs_of(right, tuning.pairs_per_prompt)
        if not pairs:
            if not rehearses:
                raise ConfigError(
                    "tuning.samples: no prompt has a completion that parses beside one that doesn't; draw more, "
                    "or train the base for longer."
                )
            # A rehearsal's network has learned nothing.
            pairs = [(0, 1)]
        made = Pairs(drawn.tokens, drawn.completion_mask, pairs)
        self._drawn = None if rehearses else (seed, made)
        return made


def _advantage(name: str) -> Callable[..., Tensor]:
    """A function that makes advantages of rewards, by the name in the configuration."""
    functions: dict[str, Callable[..., Tensor]] = {"group": group_advantage, "rloo": rloo_advantage}
    if name not in functions:
        raise ConfigError(f"tuning.methods: advantage={name} came; choose one of {', '.join(functions)}.")
    return functions[name]


class PolicyTuning(CodePolicies):
    """By policy gradients, with a reward of 1 for a completion that parses."""

    title = "Completions that parse, by policy gradients"

    def tune(self, base: nn.Module, method: str, prompts: Sequence[Prompts], seed: int, **trainer: Any) -> nn.Module:
        """A method trained on its own completions."""
        tuning, settings = self.config.tuning, self.methods()[method]
        module = self.made(
            settings,
            PolicyGradientLearner,
            base,
            reward=parsed,
            group_size=tuning.samples,
            max_new_tokens=tuning.max_new_tokens,
            stop_token=NEWLINE,
            updates=settings.updates,
            kl_weight=settings.kl_weight,
            advantage=partial(_advantage(settings.advantage), group_size=tuning.samples),
            sampling_seed=seed,
        )
        return self.fit(module, PromptSplit(prompts[0]), method, seed, **trainer)
