"""Terms, schedules and weighted sums."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_losses import KD, Adapted, Criterion, CrossEntropy, Focal, Objective, Term
from lightning_losses.objective import Constant, Cosine, Linear, WarmUp
from lightning_losses.objective.ignored_targets import ignored_targets


def example():
    return {"logits": torch.randn(4, 3), "teacher_logits": torch.randn(4, 3), "target": torch.tensor([0, 1, 2, 0])}


def test_total_is_the_weighted_sum_of_parts():
    step = example()
    value = Objective({"ce": Term(CrossEntropy(), 0.1), "kd": Term(KD(2.0), 0.9)})(**step)
    torch.testing.assert_close(value.total, 0.1 * value.parts["ce"] + 0.9 * value.parts["kd"])
    torch.testing.assert_close(value.parts["kd"], KD(2.0)(step["logits"], step["teacher_logits"]))


@pytest.mark.parametrize("terms", [{"ce": CrossEntropy()}, {"a": Term(CrossEntropy(), 0.5), "b": Term(Focal(), 2.0)}])
def test_an_objective_stands_in_for_a_criterion_of_torch(terms):
    step = example()
    logits, target = step["logits"].requires_grad_(), step["target"]
    objective = Objective(terms)
    wanted = objective(logits=logits, target=target).total
    for criterion in (Criterion(objective), Criterion(terms)):
        value = criterion(logits, target)
        assert torch.equal(value, wanted) and value.shape == ()
        value.backward()
    assert torch.equal(objective(logits, target).total, wanted)
    torch.testing.assert_close(Criterion({"ce": CrossEntropy()})(logits, target), nn.CrossEntropyLoss()(logits, target))
    with pytest.raises(ValueError, match="needs 'teacher_logits'; the step offered 'logits', 'target'"):
        Criterion({"kd": KD()})(logits, target)
    assert Criterion({"kd": KD()})(logits, target, teacher_logits=logits.detach()).item() == 0
    with pytest.raises(ValueError, match="Objective: target came twice"):
        objective(logits, target, target=target)


def test_missing_tensor_names_term_tensor_and_offer():
    with pytest.raises(
        ValueError, match=r"term 'kd' \(KD\) needs 'teacher_logits'; the step offered 'logits', 'target'"
    ):
        Objective({"kd": KD()})(logits=torch.zeros(1, 2), target=torch.zeros(1, dtype=torch.int64))


def test_a_tensor_that_is_none_is_missing():
    step = {"logits": torch.zeros(1, 2), "target": None}
    with pytest.raises(ValueError, match=r"term 'ce' \(CrossEntropy\) needs 'target'; the step offered 'logits'\.$"):
        Objective({"ce": CrossEntropy()})(**step)
    # Where it is optional it may be so.
    assert Objective({"kd": KD()})(**step, teacher_logits=torch.zeros(1, 2)).total == 0


def test_a_weight_that_is_no_number_is_refused():
    objective = Objective({"kd": Term(KD(), lambda progress: float("nan"))})
    with pytest.raises(ValueError, match=r"^Term: the schedule of KD gave the weight nan at progress 0\.5; give "):
        objective(**example(), progress=0.5)


def test_schedules_at_their_ends():
    for schedule, start, middle, end in [
        (Constant(3.0), 3.0, 3.0, 3.0),
        (Linear(0.0, 2.0), 0.0, 1.0, 2.0),
        (Cosine(0.0, 2.0), 0.0, 1.0, 2.0),
        (WarmUp(2.0, until=0.5), 0.0, 2.0, 2.0),
        (Linear(4.0, 0.0, begin=0.5, until=0.75), 4.0, 4.0, 0.0),
    ]:
        assert [schedule(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([start, middle, end])
    with pytest.raises(ValueError, match="begin=0.5 and until=0.2"):
        Linear(0, 1, begin=0.5, until=0.2)


def test_scheduled_weight_follows_progress_and_asks_for_it():
    objective = Objective({"ce": Term(CrossEntropy(), Linear(0.0, 1.0))})
    step = {k: v for k, v in example().items() if k != "teacher_logits"}
    assert objective(**step, progress=0.0).total == 0
    value = objective(**step, progress=0.25)
    torch.testing.assert_close(value.total, 0.25 * value.parts["ce"])
    with pytest.raises(ValueError, match="gave no 'progress'"):
        objective(**step)


def test_third_party_module_and_function_become_terms():
    step = example()
    module = Term(nn.CrossEntropyLoss(), inputs={"input": "logits"})

    def margin(scores, labels, scale=1.0):
        return scale * scores.gather(1, labels[:, None]).mean()

    function = Term(margin, 2.0, inputs={"scores": "logits", "labels": "target"})
    value = Objective({"ce": module, "margin": function})(**step)
    torch.testing.assert_close(value.parts["ce"], CrossEntropy()(step["logits"], step["target"]))
    with pytest.raises(ValueError, match=r"inputs name \['output'\]"):
        Term(nn.CrossEntropyLoss(), inputs={"output": "logits"})


def test_what_is_no_objective_is_refused():
    with pytest.raises(ValueError, match="no terms"):
        Objective({})
    with pytest.raises(ValueError, match="terms came as a list; give losses by name"):
        Objective([CrossEntropy()])
    for name in ("a.b", "", "keys", 1):
        with pytest.raises(ValueError, match=r"^Objective: terms named \[.*\] came, which torch refuses"):
            Objective({name: CrossEntropy()})
    with pytest.raises(ValueError, match="loss='kd'"):
        Term("kd")
    with pytest.raises(ValueError, match="weight='heavy'"):
        Term(KD(), "heavy")
    with pytest.raises(ValueError, match=r"term 'ce' returned shape \[4\]"):
        Objective({"ce": CrossEntropy(reduction="none")})(**example())


def test_only_batch_coupled_terms_see_the_gathered_batch():
    class Coupled(nn.Module):
        batch_coupled = True

        def forward(self, logits, queue):
            return logits.sum() + queue.sum()

    calls = []

    def gather(tensor):
        calls.append(tensor.shape)
        return torch.cat([tensor, tensor])

    # Every process has the same queue.
    step = {**example(), "queue": torch.ones(2, 3)}
    value = Objective({"ce": CrossEntropy(), "coupled": Coupled(), "again": Coupled()})(gather=gather, **step)
    torch.testing.assert_close(value.parts["coupled"], 2 * step["logits"].sum() + 6)
    torch.testing.assert_close(value.parts["ce"], CrossEntropy()(step["logits"], step["target"]))
    assert calls == [torch.Size([4, 3])]


def test_parameters_of_losses_train_and_materialize():
    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.LazyLinear(3)

        def forward(self, features):
            return self.head(features).square().mean()

    objective = Objective({"ce": CrossEntropy(), "projected": Projected()})
    assert objective.lazy
    frozen = objective.terms["projected"].loss.head.eval()
    with pytest.raises(AttributeError):
        objective.materialize(features="no tensor")
    assert objective.terms["projected"].training and not frozen.training
    objective.materialize(features=torch.zeros(2, 5))
    assert not objective.lazy
    assert objective.state_dict()["terms.projected.loss.head.weight"].shape == (3, 5)


def test_terms_tell_what_they_count():
    target = torch.tensor([0, -100, 2, 2])
    step = {"logits": torch.randn(4, 3), "teacher_logits": torch.randn(4, 3), "target": target}
    weight = [1.0, 2.0, 4.0]
    ours, taught = Term(CrossEntropy()).count(step), Term(KD()).count(step)
    theirs = Term(nn.CrossEntropyLoss(), inputs={"input": "logits"}).count(step)
    assert [int(count.samples) for count in (ours, taught, theirs)] == [3, 3, 3]
    assert ours.is_of_same(taught) and ours.is_of_same(theirs)
    assert not ours.is_of_same(Term(CrossEntropy()).count({**step, "target": target.clone()}))
    assert not ours.is_of_same(Term(CrossEntropy(ignore_index=2)).count(step))
    for weighted in (
        Term(CrossEntropy(class_weight=weight)),
        Term(nn.CrossEntropyLoss(torch.tensor(weight)), inputs={"input": "logits"}),
    ):
        assert float(weighted.count(step).samples) == 9 and not weighted.count(step).is_of_same(ours)
    soft = {**step, "target": torch.full((4, 3), 1 / 3)}
    ours, taught = Term(CrossEntropy()).count(soft), Term(KD()).count(soft)
    theirs = Term(nn.CrossEntropyLoss(), inputs={"input": "logits"}).count(soft)
    assert [int(count.samples) for count in (ours, taught, theirs)] == [4, 4, 4]
    # A row of zeros counts for torch alone.
    assert ours.is_of_same(taught) and not ours.is_of_same(theirs)
    assert Term(CrossEntropy(reduction="sum")).count(step) is None
    assert Term(nn.CrossEntropyLoss(reduction="sum"), inputs={"input": "logits"}).count(step) is None
    assert Term(lambda logits: logits.mean()).count(step) is None

    class Kept(nn.CrossEntropyLoss):
        """Torch's own under another name."""

    class Own(nn.CrossEntropyLoss):
        """A mean over all rows."""

        def forward(self, input, target):
            return super().forward(input, target) * (target != -100).float().mean()

    kept, own = (Term(kind(), inputs={"input": "logits"}) for kind in (Kept, Own))
    assert kept.count(step).samples == 3 and own.count(step) is None


@pytest.mark.parametrize(
    "loss",
    [
        Term(partial(F.cross_entropy, ignore_index=0), inputs={"input": "logits"}),
        Term(Adapted(partial(F.cross_entropy, ignore_index=0), {"input": "logits"})),
        Term(lambda logits, target, ignore_index=0: logits.mean()),
        Term(nn.CrossEntropyLoss(ignore_index=0), inputs={"input": "logits"}),
    ],
    ids=["partial", "adapted", "default", "module"],
)
def test_what_a_term_ignores_is_told_by_function_and_module(loss):
    assert ignored_targets(Objective({"loss": loss})) == (0,)
    assert ignored_targets(Objective({"loss": loss, "other": CrossEntropy(ignore_index=7)})) == (0, 7)


def test_a_term_leaves_out_what_its_loss_can_do_without():
    logits, teacher_logits = torch.randn(4, 3), torch.randn(4, 3)
    target = torch.tensor([0, -100, -100, 2])
    step = {"logits": logits, "teacher_logits": teacher_logits, "target": target}
    everything = Term(KD(), inputs={"target": None})
    assert everything.needs == {"logits": True, "teacher_logits": True}
    assert torch.equal(everything(step), KD()(logits, teacher_logits))
    assert torch.equal(Term(KD())(step), KD()(logits, teacher_logits, target))
    assert everything.count(step).samples == 4 and Term(KD()).count(step).samples == 2
    with pytest.raises(ValueError, match=r"inputs leave out \['target'\], which CrossEntropy can't do without"):
        Term(CrossEntropy(), inputs={"target": None})
