import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_losses import linear_distillation
from lightning_losses.losses import DKD, KD, NKD, AlignedVocabulary, CrossEntropy, SinKD
from lightning_losses.losses.distillation.logits.aligned_vocabulary import shared_classes
from tests.kernels.on_cuda import fake_cuda  # noqa: F401 - the fixture is used by its name
from tests.losses.strategies import gradient, pairs


@given(pairs(min_classes=4), st.sampled_from([KD(2.0), NKD(), DKD()]))
def test_equal_vocabularies_are_the_loss_itself(pair, loss):
    for policy in ("error", "truncate"):
        torch.testing.assert_close(AlignedVocabulary(loss, policy)(*pair), loss(*pair))


@given(pairs(min_classes=4), st.booleans())
def test_truncated_it_is_the_loss_on_the_first_classes(pair, student_has_more):
    logits, teacher, target = pair
    cut = logits.shape[-1] - 1
    target = target.where(target < cut, -100)
    found = AlignedVocabulary(KD(2.0), "truncate")
    if student_has_more:
        value = found(logits, teacher[:, :cut], pair.target)
        slopes = gradient(found, logits, teacher[:, :cut], pair.target)
        assert bool((slopes[:, cut:] == 0).all())
        # A shift of what the student knows alone changes nothing.
        torch.testing.assert_close(
            found(torch.cat([logits[:, :cut], 9 + logits[:, cut:]], 1), teacher[:, :cut], pair.target), value
        )
    else:
        target = pair.target.clamp(max=cut - 1)
        value = found(logits[:, :cut], teacher, target)
    torch.testing.assert_close(value, KD(2.0)(logits[:, :cut], teacher[:, :cut], target))


@given(pairs(min_classes=5), st.integers(0, 2**31))
def test_a_map_goes_by_its_lists(pair, seed):
    generator = torch.Generator().manual_seed(seed)
    size = pair.logits.shape[-1]
    renamed = torch.randperm(size, generator=generator)
    # The teacher's class renamed[k] is the student's class k.
    teacher = torch.empty_like(pair.teacher_logits).index_copy(1, renamed, pair.teacher_logits)
    everything = AlignedVocabulary(NKD(), "map", list(range(size)), renamed.tolist())
    torch.testing.assert_close(everything(pair.logits, teacher, pair.target), NKD()(*pair))
    some = [3, 0, 4]
    part = AlignedVocabulary(NKD(), "map", some, renamed[some].tolist())
    places = torch.full((size,), -100)
    places[some] = torch.arange(3)
    expected = NKD()(pair.logits[:, some], pair.teacher_logits[:, some], places[pair.target])
    torch.testing.assert_close(part(pair.logits, teacher, pair.target), expected)
    denominator = part.denominator(logits=pair.logits, teacher_logits=teacher, target=pair.target)
    assert int(denominator) == int((places[pair.target] != -100).sum())


def test_without_a_shared_class_that_is_a_target_the_loss_is_zero():
    logits, target = torch.randn(3, 5, requires_grad=True), torch.tensor([3, 4, 3])
    value = AlignedVocabulary(NKD(), "truncate")(logits, torch.randn(3, 3), target)
    value.backward()
    assert value.item() == 0 and bool((logits.grad == 0).all())


def test_what_it_wraps_stays_what_it_is():
    # SinKD has no target to ignore by; the reduction and its denominator are the loss's.
    AlignedVocabulary(SinKD(), "truncate")(torch.randn(4, 5), torch.randn(4, 6), torch.tensor([0, 1, 2, 3]))
    assert AlignedVocabulary(KD(reduction="sum")).reduction == "sum"
    with pytest.raises(ValueError, match="^aligned_vocabulary: CrossEntropy came as loss"):
        AlignedVocabulary(CrossEntropy())


@pytest.mark.parametrize("policy", ["truncate", "map"])
@pytest.mark.parametrize("hard_weight", [0.0, 0.5])
def test_the_fused_heads_agree(policy, hard_weight):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    hidden, weight, bias = (normal(*shape).requires_grad_() for shape in ((6, 4), (7, 4), (7,)))
    teacher_hidden, teacher_weight, teacher_bias = normal(6, 3), normal(5, 3), normal(5)
    target = torch.tensor([0, 6, 2, -100, 4, 1])
    lists = {"student_classes": [1, 2, 6], "teacher_classes": [4, 0, 3]} if policy == "map" else {}
    found = linear_distillation(
        hidden, weight, teacher_hidden, teacher_weight, target, objective=KD(2.0), bias=bias, chunk=4,
        teacher_bias=teacher_bias, hard_weight=hard_weight, vocabulary=policy, **lists,
    ).loss  # fmt: skip
    logits = hidden @ weight.T + bias
    expected = AlignedVocabulary(KD(2.0), policy, **lists)(
        logits, teacher_hidden @ teacher_weight.T + teacher_bias, target
    ) + hard_weight * CrossEntropy()(logits, target)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, [hidden, weight, bias]),
        torch.autograd.grad(expected, [hidden, weight, bias]),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


class Waits(TorchDispatchMode):
    """Notes what makes the host wait for a GPU: numbers that are read, and tensors of both in one operation."""

    def __init__(self):
        super().__init__()
        self.noted = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        # Numbers in a tensor without dimensions go along with a kernel's arguments.
        if len({tensor.device.type for tensor in tensors if tensor.ndim}) > 1:
            self.noted.append(function)
        return result


@pytest.mark.usefixtures("fake_cuda")
@pytest.mark.parametrize("hard_weight", [0.0, 0.5])
def test_indices_on_a_card_are_neither_read_nor_copied(hard_weight):
    # A fake tensor has no numbers to read: that would raise. Autograd's engine would ask for a driver.
    with FakeTensorMode(), torch.no_grad(), Waits() as waits:
        hidden, weight = (torch.empty(n, 4, device="cuda") for n in (6, 7))
        teacher = (torch.empty(n, 3, device="cuda") for n in (6, 5))
        target = torch.empty(6, dtype=torch.int64, device="cuda")
        lists = {
            name: torch.empty(3, dtype=torch.int64, device="cuda") for name in ("student_classes", "teacher_classes")
        }
        options = {"objective": KD(2.0), "hard_weight": hard_weight, "impl": "chunked", "vocabulary": "map"}
        loss = linear_distillation(hidden, weight, *teacher, target, **options, **lists).loss
    assert loss.shape == () and not waits.noted


def test_indices_that_change_are_checked_again():
    student, sizes = torch.tensor([3, 0]), {"student_size": 4, "teacher_size": 3, "policy": "map"}
    found = shared_classes(**sizes, student_classes=student, teacher_classes=range(2, 0, -1))
    assert [index.tolist() for index in found] == [[3, 0], [2, 1]]
    student[0] = 4
    with pytest.raises(ValueError, match="^aligned_vocabulary: student_classes of shape .2. came for 4 classes"):
        shared_classes(**sizes, student_classes=student, teacher_classes=[2, 1])


def test_bad_lists_are_refused():
    for lists in ([None, [0]], [[0, 0], [0, 1]], [[-1], [0]], [[0, 1], [0]]):
        with pytest.raises(ValueError, match="^aligned_vocabulary: .*student_classes"):
            AlignedVocabulary(None, "map", *lists)
    with pytest.raises(ValueError, match="^aligned_vocabulary: teacher_classes of shape .1. came for 3 classes"):
        AlignedVocabulary(None, "map", [0], [5])(torch.zeros(2, 4), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="^aligned_vocabulary: a target of probabilities came"):
        AlignedVocabulary(NKD(), "truncate")(torch.zeros(2, 4), torch.zeros(2, 3), torch.full((2, 4), 0.25))
