import pytest
import torch
from torch import nn

from lightning_losses import CrossEntropy, Objective
from lightning_losses.data.ferkd_labels import ferkd_labels
from lightning_losses.data.selfmix import selfmix
from lightning_losses.losses import KD
from lightning_losses.modules.ferkd_distiller import FerKDDistiller


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def module(low, middle, **options):
    return FerKDDistiller(
        network(0), low=low, middle=middle, network=network(1), num_classes=3,
        objective=Objective({"ce": CrossEntropy()}), **options,
    )  # fmt: skip


def batch():
    generator = torch.Generator().manual_seed(2)
    inputs, other = (torch.randn(8, 1, 4, 4, generator=generator) for _ in range(2))
    return {"inputs": inputs, "other_inputs": other, "target": torch.arange(8) % 3, "index": torch.arange(8)}


def test_with_no_thresholds_it_is_distillation():
    student, step = module(0.0, 0.0), batch()
    loss = student.training_step(step, 0)["loss"]
    logits, teacher = student.network(step["inputs"]), student.teacher(step["inputs"])
    log_t = teacher.log_softmax(-1)
    # Cross-entropy with the teacher is the divergence and the teacher's entropy.
    expected = KD(temperature=1.0)(logits, teacher) - (log_t.exp() * log_t).sum(-1).mean()
    torch.testing.assert_close(loss, expected)


def test_crops_are_dropped_and_labels_softened():
    student, step = module(0.45, 0.6, smoothing=0.2), batch()
    adapted = ferkd_labels(
        student.teacher(step["inputs"]).softmax(-1), step["target"], low=0.45, middle=0.6, smoothing=0.2
    )
    kept = adapted.weight > 0
    assert 0 < kept.sum() < 8
    output = student.training_step(step, 0)
    assert output["index"].tolist() == step["index"][kept].tolist()
    expected = CrossEntropy()(student.network(step["inputs"])[kept], adapted.target[kept])
    torch.testing.assert_close(output["loss"], expected)


def test_all_crops_dropped_is_a_loss_of_zero():
    student = module(1.0, 1.0)
    loss = student.training_step(batch(), 0)["loss"]
    loss.backward()
    assert loss.item() == 0 and bool((student.network[1].weight.grad == 0).all())


def test_crops_of_an_image_are_mixed_with_their_labels():
    student, step = module(0.0, 0.0, mix_alpha=1.0), batch()
    torch.manual_seed(3)
    output = student.training_step(step, 0)
    labels = [student.teacher(step[name]).softmax(-1) for name in ("inputs", "other_inputs")]
    torch.manual_seed(3)
    mixed = selfmix(step["inputs"], step["other_inputs"], *labels)
    torch.testing.assert_close(output["target"], mixed.target)
    torch.testing.assert_close(output["loss"], CrossEntropy()(student.network(mixed.inputs), mixed.target))
    with pytest.raises(ValueError, match="mixing needs 'other_inputs'"):
        student.training_step({name: value for name, value in step.items() if name != "other_inputs"}, 0)


@pytest.mark.parametrize("mark", [-100, 255])
@pytest.mark.parametrize("mixed", [None, 1.0], ids=["plain", "mixed"])
def test_ignored_crops_are_as_if_absent(mark, mixed):
    student, step = module(0.0, 0.5, mix_alpha=mixed), batch()
    student.objective = Objective({"ce": CrossEntropy(ignore_index=mark)})
    kept = torch.arange(8) % 3 != 1
    some = {name: value[kept] for name, value in step.items()}
    step["target"] = step["target"].masked_fill(~kept, mark)
    torch.manual_seed(4)
    output = student.training_step(step, 0)
    torch.manual_seed(4)
    torch.testing.assert_close(output["loss"], student.training_step(some, 0)["loss"])
    assert output["index"].tolist() == some["index"].tolist()
