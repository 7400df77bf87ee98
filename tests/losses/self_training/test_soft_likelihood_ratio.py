import torch

from lightning_losses.losses import SoftLikelihoodRatio, SoftmaxEntropy

LOGITS = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_value_from_the_definition():
    p = LOGITS.softmax(dim=-1)
    expected = -torch.stack([sum(each * torch.log(each / (1 - each) + 1e-5) for each in row) for row in p])
    torch.testing.assert_close(SoftLikelihoodRatio(reduction="none")(LOGITS), expected)


def test_a_clip_that_single_precision_rounds_to_1_leaves_it_finite():
    logits = torch.tensor([[30.0, 0.0]], requires_grad=True)
    value = SoftLikelihoodRatio(clip=1 - 1e-9)(logits)
    assert -17 < value < -16 and torch.autograd.grad(value, logits)[0].isfinite().all()


def test_a_nearly_certain_prediction_still_has_a_gradient_and_a_certain_one_none():
    def gradient(loss, height):
        logits = torch.tensor([[height, 0.0]], requires_grad=True)
        return torch.autograd.grad(loss(logits), logits)[0].abs().max().item()

    # p = 0.988 is below the clip, p = 0.9933 above it.
    assert gradient(SoftLikelihoodRatio(), 4.4) > 10 * gradient(SoftmaxEntropy(), 4.4)
    assert gradient(SoftLikelihoodRatio(), 20.0) < 1e-6
