import pytest
import torch
from torch import nn

from lightning_losses import KD, CrossEntropy, Objective, Term
from lightning_losses.losses import Fishr, MTARDBalance
from lightning_losses.modules import Distiller
from lightning_losses.modules.ensemble_classifier import EnsembleClassifier
from lightning_losses.teachers.ensemble import TeacherEnsemble

INPUTS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(5) % 3


def linear(number):
    torch.manual_seed(number)
    return nn.Linear(4, 3)


def three():
    return [linear(number) for number in range(3)]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_mean_of_probabilities_is_that_at_the_temperature(temperature):
    teachers, weights = three(), [1.0, 2.0, 5.0]
    ensemble = TeacherEnsemble(teachers, weights, temperature=temperature)
    expected = sum(
        w / 8 * (teacher(INPUTS) / temperature).softmax(-1) for w, teacher in zip(weights, teachers, strict=True)
    )
    torch.testing.assert_close((ensemble(INPUTS) / temperature).softmax(-1), expected)


def test_the_mean_of_logits():
    teachers = three()
    ensemble = TeacherEnsemble(teachers, [1.0, 0.0, 3.0], average="logits")
    torch.testing.assert_close(ensemble(INPUTS), 0.25 * teachers[0](INPUTS) + 0.75 * teachers[2](INPUTS))
    torch.testing.assert_close(TeacherEnsemble(teachers[:1], average="logits")(INPUTS), teachers[0](INPUTS))


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_weights_keep_their_digits_in_every_precision(average):
    logits = {name: torch.randn(4, 3, dtype=torch.float64) for name in "abc"}
    ensemble = TeacherEnsemble(dict.fromkeys("abc", linear(0)), [0.1, 0.2, 0.4], average, temperature=2.0)
    expected = ensemble.mean(logits)
    shares = dict(zip("abc", (1 / 7, 2 / 7, 4 / 7), strict=True))
    wanted = sum(share * (logits[name] if average == "logits" else (logits[name] / 2).softmax(-1))
                 for name, share in shares.items())  # fmt: skip
    torch.testing.assert_close(
        expected if average == "logits" else (expected / 2).softmax(-1), wanted, rtol=1e-14, atol=0
    )
    assert torch.equal(ensemble.bfloat16().mean(logits), expected)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_a_teacher_of_weight_0_says_nothing(average):
    ensemble = TeacherEnsemble(three()[:2], [1.0, 0.0], average)
    logits = linear(0)(INPUTS)
    said = ensemble.mean({"0": logits, "1": torch.full_like(logits, torch.nan)})
    torch.testing.assert_close(said.softmax(-1), logits.softmax(-1))


def test_equal_teachers_are_one_and_a_masked_class_stays_finite_elsewhere():
    same = TeacherEnsemble([linear(0), linear(0)], temperature=2.0)
    torch.testing.assert_close(KD(temperature=2.0)(linear(0)(INPUTS), same(INPUTS)).item(), 0.0, atol=1e-6, rtol=0)
    masked = torch.tensor([[0.0, 1.0, -torch.inf]])
    for average in ("probabilities", "logits"):
        both = TeacherEnsemble(three()[:2], average=average).mean({"0": masked, "1": masked})
        assert torch.isneginf(both[0, 2]) and bool(torch.isfinite(both[0, :2]).all())


def test_a_student_learns_from_the_mean_and_from_each():
    ensemble = TeacherEnsemble({"a": linear(0), "b": linear(1)}, temperature=2.0)
    balance = Term(MTARDBalance(num_teachers=2), inputs={"teacher_logits": "each_teacher_logits"})
    objective = Objective({"kd": KD(2.0), "balance": balance})
    module = Distiller(ensemble, network=linear(7), objective=objective, num_classes=3)
    logits = module.network(INPUTS)
    each = {"a": linear(0)(INPUTS), "b": linear(1)(INPUTS)}
    expected = KD(2.0)(logits, ensemble(INPUTS)) + MTARDBalance(2)(dict.fromkeys(each, logits), each)
    step = module.training_step({"inputs": INPUTS, "target": TARGET}, 0)
    torch.testing.assert_close(step["loss"], expected)
    assert not any("teacher" in name for name in module.state_dict() if "temperatures" not in name)
    # The balance has moved, and is saved with the module.
    assert module.state_dict()["objective.terms.balance.loss.temperatures"].max() > 1


def test_the_members_train_as_they_would_alone():
    ensemble = TeacherEnsemble(three())
    module = EnsembleClassifier(network=ensemble, objective=Objective({"ce": CrossEntropy()}), num_classes=3)
    module.training_step({"inputs": INPUTS, "target": TARGET}, 0)["loss"].backward()
    for number, member in enumerate(ensemble.members.values()):
        alone = linear(number)
        CrossEntropy()(alone(INPUTS), TARGET).backward()
        torch.testing.assert_close(member.weight.grad, alone.weight.grad)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="^TeacherEnsemble: no teachers came"):
        TeacherEnsemble([])
    for weights in ([1.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0]):
        with pytest.raises(ValueError, match=r"^TeacherEnsemble: weights=\["):
            TeacherEnsemble(three(), weights)
    with pytest.raises(ValueError, match="^TeacherEnsemble: average='median'"):
        TeacherEnsemble(three(), average="median")
    with pytest.raises(ValueError, match="^EnsembleClassifier: network is a Linear"):
        EnsembleClassifier(network=linear(0), objective=Objective({"ce": CrossEntropy()}), num_classes=3)
    fishr = Term(Fishr(num_domains=2, num_classes=3, feature_dim=3), inputs={"features": "logits"})
    with pytest.raises(ValueError, match="^EnsembleClassifier: the term 'fishr' learns from training steps"):
        EnsembleClassifier(network=TeacherEnsemble(three()), objective=Objective({"fishr": fishr}), num_classes=3)
    objective = Objective({"x": Term(KD(), inputs={"teacher_logits": "each_teacher_logits"})})
    with pytest.raises(ValueError, match="takes 'each_teacher_logits', but the teacher is a Linear"):
        Distiller(linear(0), network=linear(1), objective=objective, num_classes=3).training_step(
            {"inputs": INPUTS, "target": TARGET}, 0
        )
