import torch

from lightning_losses.losses import ConfidencePenalty, SoftmaxEntropy

LOGITS = 3 * torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_it_is_the_entropy_and_the_negative_of_the_penalty():
    expected = torch.distributions.Categorical(logits=LOGITS).entropy()
    torch.testing.assert_close(SoftmaxEntropy(reduction="none")(LOGITS), expected)
    torch.testing.assert_close(SoftmaxEntropy()(LOGITS), -ConfidencePenalty()(LOGITS))


def test_the_gradient_is_zero_at_the_uniform_and_towards_a_certain_prediction():
    for logits in (torch.zeros(1, 4), torch.tensor([[200.0, 0.0, -5.0, 3.0]])):
        (gradient,) = torch.autograd.grad(SoftmaxEntropy()(logits.requires_grad_()), logits)
        assert gradient.abs().max() < 1e-7
