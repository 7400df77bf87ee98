import json

import pytest
import torch

from lightning_losses.experiments.kinds.generations import generation
from lightning_losses.losses.distillation.self_taught.self_distill_gt import optimal_alpha
from tests.recipes.conftest import SHORT, composed, rehearse

SHORTER = [*SHORT[:-1], "experiment=self_distill_generations"]


def test_the_optimal_weight_is_that_of_the_two_fits(run):
    report = run("generations=1", short=SHORTER)
    assert [evaluation.trained.name for evaluation in report.evaluations] == ["generation_0", "generation_1"]
    (alpha,) = json.loads((run.folder / "alphas.json").read_text())
    kept = run.folder / "checkpoints"
    config = json.loads((kept / "generation_1" / "identity.json").read_text())
    assert config["module"]["objective"]["terms"]["self_distill_gt"]["loss"]["alpha"] == alpha
    training = composed(*SHORTER)
    fits = []
    for name in ("generation_0", "generation_1_of_the_teacher_alone"):
        module = generation(training, name, 1.0).build()
        module.load_state_dict(torch.load(kept / name / "last.ckpt", weights_only=True)["state_dict"])
        data = generation(training, name, 1.0).datamodule
        fits.append(module.network.eval()(data.val.inputs).softmax(-1).detach())
    one_hot = torch.nn.functional.one_hot(data.val.target, 10).float()
    assert alpha == pytest.approx(optimal_alpha(*fits, one_hot).clamp(0, 1).item(), abs=1e-6)


def test_with_the_labels_alone_every_generation_is_the_first(run):
    report = run("generations=2", "generation_alpha=1", short=SHORTER)
    first, second, third = (evaluation.logits for evaluation in report.evaluations)
    assert torch.equal(second, first) and torch.equal(third, first)
    assert (run.folder / "report" / "report.md").is_file()


def test_what_cannot_work_is_refused_before_training():
    rehearse(composed(*SHORTER))
    for override, message in [
        ("generations=0", "^generations=0 came"),
        ("generation_alpha=2", "^generation_alpha=2 came"),
        ("objective=kd", "^generations: the objective has no term self_distill_gt"),
    ]:
        with pytest.raises(ValueError, match=message):
            rehearse(composed(*SHORTER, override))
