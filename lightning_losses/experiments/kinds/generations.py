"""Self-distillation over generations: each network learns from the labels and from the previous network."""

import copy
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.checkpoints.resumption import check_resumption
from lightning_losses.environment.atomic_files import write_json
from lightning_losses.experiments.launch import Experiment
from lightning_losses.experiments.loggers.loggers import plain_settings
from lightning_losses.experiments.training.evaluation import evaluate
from lightning_losses.experiments.training.rehearsal import rehearse_step
from lightning_losses.experiments.training.report import Report
from lightning_losses.experiments.training.training import Trained, Training, training_of
from lightning_losses.losses.distillation.self_taught.self_distill_gt import optimal_alpha

_ALPHA = "objective.terms.self_distill_gt.loss.alpha"


def generation(config: DictConfig, name: str, alpha: float) -> Training:
    """One network's training with the labels' weight `alpha`.

    Raises:
        ValueError: an objective without self_distill_gt.
    """
    module = OmegaConf.create(OmegaConf.to_container(config.modules.student, resolve=True))
    assert isinstance(module, DictConfig)
    if OmegaConf.select(module, _ALPHA) is None:
        raise ValueError(
            "generations: the objective has no term self_distill_gt, whose alpha the generations set; choose "
            "objective=self_distill_gt."
        )
    OmegaConf.update(module, _ALPHA, float(alpha))
    return training_of(config, name, module, weights=config.weights)


def check_settings(config: DictConfig) -> None:
    """Raise ``ValueError`` unless generations and generation_alpha are valid."""
    if not isinstance(config.generations, int) or config.generations < 1:
        raise ValueError(f"generations={config.generations!r} came; give at least 1, after the first network.")
    alpha = config.generation_alpha
    if alpha != "optimal" and not (isinstance(alpha, (int, float)) and 0 <= alpha <= 1):
        raise ValueError(f"generation_alpha={alpha!r} came; give a number in [0, 1], or optimal.")


class SelfDistillation(Experiment):
    """A first network learns from the labels; each generation learns from the labels and from the previous network.

    With ``generation_alpha=optimal`` the labels' weight has a closed form from validation predictions of two networks:
    one that learns from the labels alone (the first network), and one that learns from the previous generation alone,
    which is trained for this purpose. The weight is clamped to [0, 1]. All networks begin with the same weights.
    """

    def rehearse(self) -> None:
        """Take one step with the first and one with the second network."""
        check_settings(self.config)
        first = generation(self.config, "generation_0", 1.0)
        module = first.build(first.build().get_submodule("network"))
        if self.resumed is not None:
            check_resumption(self.resumed / first.name, first.identity, module)
        rehearse_step(module, first.first_batch(rows=8), first.trainer)

    def perform(self, folder: Path) -> Report | None:
        """Train one generation after another, and report on all; None in further processes."""
        config = self.config
        check_settings(config)
        started = time.perf_counter()
        checkpoints = folder / "checkpoints"

        def fit(name: str, alpha: float, teacher: nn.Module | None) -> Trained:
            training = generation(config, name, alpha)
            # At alpha = 1 the teacher has weight 0, so any network will do.
            network = training.build().get_submodule("network") if teacher is None else teacher
            return training.run(checkpoints, resume=config.resume is not None, teacher=copy.deepcopy(network))

        data = generation(config, "generation_0", 1.0).datamodule
        one_hot = F.one_hot(data.val.target, data.num_classes).float()
        trained, alphas = [fit("generation_0", 1.0, None)], []
        from_target = _predictions(trained[0].network, data.val.inputs)
        for number in range(1, config.generations + 1):
            teacher = trained[-1].network
            alpha = config.generation_alpha
            if alpha == "optimal":
                alone = fit(f"generation_{number}_of_the_teacher_alone", 0.0, teacher)
                from_teacher = _predictions(alone.network, data.val.inputs)
                alpha = optimal_alpha(from_target, from_teacher, one_hot).clamp(0, 1).item()
            alphas.append(float(alpha))
            trained.append(fit(f"generation_{number}", alpha, teacher))
        if not first_process():
            return None
        write_json(folder / "alphas.json", alphas)
        report = Report(
            title=f"{config.generations} generations on {data.name}, labels weighing "
            f"{', '.join(f'{alpha:.3f}' for alpha in alphas)}, seed {config.seed}",
            command=self.command,
            evaluations=[evaluate(network, data) for network in trained],
            settings=plain_settings(config),
            seconds=time.perf_counter() - started,
        )
        page = report.page()
        page.write(folder / "report")
        page.show()
        return report


@torch.no_grad()
def _predictions(network: nn.Module, inputs: Tensor) -> Float[Tensor, "samples classes"]:
    output: Tensor = network.eval()(inputs)
    return output.float().softmax(dim=-1)
