import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import CRD, DROInstanceReweighting, Focal

LOGITS = 2 * torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 3, 1, 2, 0, 1])
ROWS = F.cross_entropy(LOGITS, TARGET, reduction="none")


def test_value_and_weights_from_the_definition():
    leaf = LOGITS.clone().requires_grad_()
    value = DROInstanceReweighting(r=0.7)(leaf, TARGET)
    torch.testing.assert_close(value, 0.7 * (ROWS / 0.7).exp().mean().log())
    weights = (ROWS / 0.7).softmax(dim=0)
    expected = weights.unsqueeze(1) * (LOGITS.softmax(-1) - F.one_hot(TARGET, 4))
    torch.testing.assert_close(torch.autograd.grad(value, leaf)[0], expected)


def test_its_limits_are_the_mean_and_the_worst():
    assert DROInstanceReweighting(r=1e7)(LOGITS, TARGET).item() == pytest.approx(ROWS.mean().item(), abs=1e-6)
    assert DROInstanceReweighting(r=1e-3)(LOGITS, TARGET).item() == pytest.approx(ROWS.max().item(), abs=1e-2)


@pytest.mark.parametrize("r", [1e-38, 1.0, 1e5, 1e12])
def test_single_precision_holds_any_r(r):
    wide = r * ((ROWS / r).logsumexp(0) - torch.tensor(6.0).double().log()) if r < 1e5 else ROWS.mean()
    leaf = LOGITS.float().requires_grad_()
    value = DROInstanceReweighting(r=r)(leaf, TARGET)
    torch.testing.assert_close(value.double(), wide, rtol=1e-4, atol=0)
    weights = (ROWS / r).softmax(dim=0).unsqueeze(1)
    expected = weights * (LOGITS.softmax(-1) - F.one_hot(TARGET, 4))
    torch.testing.assert_close(torch.autograd.grad(value, leaf)[0].double(), expected, rtol=1e-4, atol=1e-6)


def test_another_loss_is_reweighted_and_left_as_it_was():
    focal = Focal(2.0, reduction="sum", ignore_index=5)
    target = TARGET.masked_fill(TARGET == 3, -100)
    value = DROInstanceReweighting(r=0.5, loss=focal)(LOGITS, target)
    rows = Focal(2.0, reduction="none")(LOGITS, target)[target >= 0]
    torch.testing.assert_close(value, 0.5 * (rows / 0.5).exp().mean().log())
    assert (focal.reduction, focal.ignore_index) == ("sum", 5)


def test_a_loss_of_other_tensors_is_refused():
    with pytest.raises(ValueError) as raised:
        DROInstanceReweighting(loss=CRD())
    assert str(raised.value) == (
        "dro_instance_reweighting: loss=CRD came; give one that has a value for each row of logits and target, such as "
        "CrossEntropy or Focal."
    )
