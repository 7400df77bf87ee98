import pytest
import torch
import torch.nn.functional as F
from hypothesis import given

from lightning_losses.losses import KD, DeiTDistill
from tests.losses.strategies import gradient, one_hot, pairs


@given(pairs())
def test_gradient_in_closed_form(pair):
    """One head for both: half the label's gradient, half that of the teacher's largest class."""
    s = pair.logits.softmax(dim=-1)
    both = (one_hot(pair.target, s) + one_hot(pair.teacher_logits.argmax(dim=-1), s)) / 2
    torch.testing.assert_close(gradient(DeiTDistill(), *pair), (s - both) / len(s))


@given(pairs())
def test_each_token_learns_its_own(pair):
    second = pair.logits.flip(-1)
    label = F.cross_entropy(pair.logits, pair.target)
    hard = F.cross_entropy(second, pair.teacher_logits.argmax(dim=-1))
    soft = KD(temperature=3.0)(second, pair.teacher_logits)
    torch.testing.assert_close(DeiTDistill(alpha=0.3)(*pair, second), 0.7 * label + 0.3 * hard)
    for normalizer, divisor in (("classes", pair.logits.shape[-1]), ("batch", 1)):
        value = DeiTDistill(alpha=0.3, kind="soft", temperature=3.0, normalizer=normalizer)(*pair, second)
        torch.testing.assert_close(value, 0.7 * label + 0.3 * soft / divisor)


@given(pairs())
def test_without_the_teacher_it_is_cross_entropy(pair):
    torch.testing.assert_close(DeiTDistill(alpha=0.0)(*pair), F.cross_entropy(pair.logits, pair.target))


def test_a_distillation_token_of_another_shape_is_refused():
    logits, target = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"^deit_distill: .*\[3\]"):
        DeiTDistill()(logits, logits, target, torch.zeros(3, 3))


@pytest.mark.parametrize("options", [{"alpha": 1.1}, {"kind": "medium"}, {"normalizer": "tokens"}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=f"^deit_distill: {next(iter(options))}"):
        DeiTDistill(**options)
