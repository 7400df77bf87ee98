"""What every loss of many labels must keep: what is not known, or masked, counts nothing."""

import pytest
import torch

from lightning_losses.losses import loss_classes
from lightning_losses.numerics.rows import multi_hot_rows
from tests.losses.examples import BATCH, CLASSES, build, tensors, with_gradients

EVERY = [loss for loss in loss_classes() if "multi_hot" in loss.inputs()]
those = pytest.mark.parametrize("loss", EVERY, ids=lambda loss: loss.identifier())


@those
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf])
def test_labels_that_are_not_known_may_have_any_logit(loss, garbage):
    module, values = build(loss), tensors(loss)
    values["multi_hot"][1] = -100
    values["multi_hot"][2, 3] = -100
    value, gradients = with_gradients(module, values)
    values["logits"][1], values["logits"][2, 3] = garbage, garbage
    other, others = with_gradients(module, values)
    assert torch.equal(other, value)
    torch.testing.assert_close(others, gradients, rtol=0, atol=0)
    assert bool((gradients["logits"][1] == 0).all()) and gradients["logits"][2, 3] == 0
    assert int(module.denominator(**values)) == BATCH - 1
    values["multi_hot"][:] = -100
    value, gradients = with_gradients(module, values)
    assert value == 0 and not any(bool(gradient.any()) for gradient in gradients.values())


@those
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_labels_come_in_any_dtype(loss, dtype):
    module, values = build(loss), tensors(loss)
    assert torch.equal(module(**{**values, "multi_hot": values["multi_hot"].to(dtype)}), module(**values))


@those
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda v: v["multi_hot"].__setitem__((0, 1), 2), "holds 2; give numbers in [0, 1], or ignore_index=-100 for a "
         "label that is not known."),
        (lambda v: v.update(multi_hot=v["multi_hot"].argmax(-1)), "of shape [6] came with logits of shape [6, 5]; give "
         "both the same, with a 0 or 1 for each label."),
        (lambda v: (v["logits"].__setitem__((0, 1), -torch.inf), v["multi_hot"].__setitem__((0, 1), 1)), "holds 1 "
         "where the logit is -inf; give 0 where logits mask a label by -inf, or another logit."),
    ],
    ids=["2", "class indices", "masked"],
)  # fmt: skip
def test_labels_that_do_not_fit_are_refused(loss, change, told):
    module, values = build(loss), tensors(loss)
    change(values)
    with pytest.raises(ValueError) as error:
        module(**values)
    assert str(error.value) == f"{loss.identifier()}: multi_hot {told}"


def test_classes_are_labels_of_which_one_holds():
    target = torch.tensor([2, -1, 255, 0])
    rows = multi_hot_rows(target, CLASSES, -1, 255)
    assert rows.tolist() == [[0, 0, 1, 0, 0], [-1] * CLASSES, [-1] * CLASSES, [1, 0, 0, 0, 0]]
    assert multi_hot_rows(torch.tensor([[0.5, 0.5], [0.0, 0.0]]), 2).tolist() == [[0.5, 0.5], [-100, -100]]
