import torch

from lightning_losses.losses import RMTSymmetricCrossEntropy, SoftmaxEntropy

STUDENT, TEACHER = torch.randn(2, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def gradient(loss, logits, *further):
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf, *further), leaf)[0]


def test_value_from_the_definition():
    q, p = STUDENT.softmax(dim=-1), TEACHER.softmax(dim=-1)
    for alpha in (0.0, 0.3, 1.0):
        expected = -((1 - alpha) * p * q.log() + alpha * q * p.log()).sum(dim=-1)
        loss = RMTSymmetricCrossEntropy(alpha, reduction="none")
        torch.testing.assert_close(loss(STUDENT, TEACHER), expected)


def test_at_the_teachers_own_prediction_it_sharpens():
    torch.testing.assert_close(RMTSymmetricCrossEntropy()(TEACHER, TEACHER), SoftmaxEntropy()(TEACHER))
    sharpening = gradient(SoftmaxEntropy(), TEACHER)
    assert sharpening.abs().max() > 0.01
    torch.testing.assert_close(gradient(RMTSymmetricCrossEntropy(), TEACHER, TEACHER), 0.5 * sharpening)
    # Cross-entropy alone has no gradient there.
    nothing = gradient(RMTSymmetricCrossEntropy(0.0), TEACHER, TEACHER)
    torch.testing.assert_close(nothing, torch.zeros_like(nothing), atol=1e-12, rtol=0)
