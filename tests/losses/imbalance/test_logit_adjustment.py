import pytest
import torch
import torch.nn.functional as F

from lightning_losses import chunked_head
from lightning_losses.losses import BalancedSoftmax, CrossEntropy, LogitAdjustment

COUNTS = torch.tensor([90.0, 9.0, 1.0], dtype=torch.float64)
LOGITS = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 2, 1, 0, 2, -100])


@pytest.mark.parametrize("soft", [False, True], ids=["indices", "probabilities"])
def test_value_from_the_definition(soft):
    target = F.one_hot(TARGET.clamp(min=0), 3).double() if soft else TARGET
    value = LogitAdjustment(COUNTS, tau=1.5)(LOGITS, target)
    kept = slice(None) if soft else slice(5)
    joint = (COUNTS / 100) ** 1.5 * LOGITS[kept].exp()
    p = joint.gather(1, TARGET[kept].clamp(min=0).unsqueeze(1)).squeeze(1) / joint.sum(dim=1)
    torch.testing.assert_close(value, -p.log().mean())


def test_equal_counts_and_a_tau_of_0_are_cross_entropy():
    expected = CrossEntropy()(LOGITS, TARGET)
    torch.testing.assert_close(LogitAdjustment([7, 7, 7])(LOGITS, TARGET), expected)
    torch.testing.assert_close(LogitAdjustment(COUNTS, tau=0.0)(LOGITS, TARGET), expected)


@pytest.mark.parametrize("impl", ["auto", "chunked", "autograd", "reference"])
@pytest.mark.parametrize("softcap", [None, 2.0], ids=["plain", "softcap"])
@pytest.mark.parametrize("biased", [False, True], ids=["no bias", "bias"])
def test_a_fused_head_gives_the_same(impl, softcap, biased):
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((6, 4), (3, 4), (3,))]
    results = []
    for fused in (True, False):
        hidden, weight, bias = (tensor.clone().requires_grad_() for tensor in tensors)
        head = bias if biased else None
        loss = LogitAdjustment(COUNTS)
        if fused:
            value = chunked_head(loss, hidden, weight, TARGET, head, impl=impl, softcap=softcap, chunk=2)
        else:
            logits = F.linear(hidden, weight, head)
            value = loss(logits if softcap is None else softcap * torch.tanh(logits / softcap), TARGET)
        results.append((value, torch.autograd.grad(value, [hidden, weight, *([bias] if biased else [])])))
    torch.testing.assert_close(results[0], results[1])


def test_the_best_balanced_prediction_is_its_optimum():
    """Of two classes with known densities, the logits that minimise the expected loss are those of p(x | y)."""
    density = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]], dtype=torch.float64)
    shares = torch.tensor([0.9, 0.1], dtype=torch.float64)
    joint = (density * shares.unsqueeze(1)).t()
    logits = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        logits.copy_(density.t().log())
    target = torch.tensor([[0, 1]]).expand(3, 2)
    loss = LogitAdjustment(shares * 100, reduction="none")
    value = (loss(logits.unsqueeze(1).expand(3, 2, 2), target) * joint).sum()
    # Its gradient is 0 there, up to the shift that softmax does not see.
    torch.testing.assert_close(torch.autograd.grad(value, logits)[0], torch.zeros(3, 2, dtype=torch.float64))
    assert BalancedSoftmax(shares * 100)(logits, target[:, 0]) == LogitAdjustment(shares * 100)(logits, target[:, 0])
