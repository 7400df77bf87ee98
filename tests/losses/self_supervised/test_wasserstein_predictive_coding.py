import pytest
import torch

from lightning_losses.losses import WassersteinPredictiveCoding

GENERATOR = torch.Generator().manual_seed(0)
A, B = (torch.randn(5, 3, dtype=torch.float64, generator=GENERATOR) for _ in range(2))


def made(**options):
    torch.manual_seed(0)
    return WassersteinPredictiveCoding(3, hidden=4, **options).double()


def critic(loss, a, b):
    return loss.last_layer(torch.nn.functional.softplus(loss.first_layer(torch.cat([a, b], dim=-1)))).squeeze(-1)


def test_without_a_penalty_it_is_infonce_of_the_critics_scores():
    loss = made(penalty_weight=0.0)
    scores = torch.stack([critic(loss, a.expand(5, 3), B) for a in A])
    torch.testing.assert_close(loss(A, B, step=0), torch.nn.functional.cross_entropy(scores, torch.arange(5)))
    apart = (scores.sum() - scores.trace()) / 20
    torch.testing.assert_close(loss.dependency(A, B), scores.trace().detach() / 5 - apart.detach())


def test_the_penalty_is_of_the_critics_own_gradient():
    loss = made()
    a, b = A.clone().requires_grad_(), B.clone().requires_grad_()
    gradients = torch.autograd.grad(critic(loss, a, b).sum(), (a, b))
    torch.testing.assert_close(loss._slopes(A, B), torch.cat(gradients, dim=1).norm(dim=1))
    # Of a critic that is all but linear the slope is the same everywhere: |w|.
    with torch.no_grad():
        loss.first_layer.bias.fill_(1e4)
    slope = (loss.last_layer.weight @ loss.first_layer.weight).norm()
    plain = made(penalty_weight=0.0)
    plain.load_state_dict(loss.state_dict())
    torch.testing.assert_close(loss(A, B, step=0) - plain(A, B, step=0), 10 * (slope - 1) ** 2)


def test_each_step_has_points_of_its_own_and_a_seed_the_same():
    loss = made()
    values = [loss(A, B, step=step).item() for step in (0, 1, 1)]
    assert values[0] != values[1] == values[2] != made(loss_seed=1)(A, B, step=1).item()


def test_autocast_leaves_the_dependency_its_precision():
    loss, a, b = made().float(), A.float(), B.float()
    with torch.autocast("cpu", torch.bfloat16):
        narrow = loss.dependency(a, b)
    assert torch.equal(narrow, loss.dependency(a, b))


def test_a_seed_beyond_what_torch_takes_is_refused():
    with pytest.raises(ValueError, match="loss_seed=4294967296 came; give a whole number of at least 0 and at most"):
        made(loss_seed=2**32)


def test_embeddings_of_another_width_are_refused():
    with pytest.raises(ValueError) as caught:
        made()(A[:, :2], B[:, :2], step=0)
    assert str(caught.value) == (
        "wasserstein_predictive_coding: embeddings of shape [5, 2] came with feature_dim=3; give as many dimensions."
    )
