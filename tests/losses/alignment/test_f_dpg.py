import math

import pytest
import torch

from lightning_losses.losses import FDPG

DIVERGENCES = ["forward_kl", "reverse_kl", "js", "total_variation", "chi_square", "reverse_chi_square"]
DRAW = torch.Generator().manual_seed(0)
POLICY, PROPOSAL, TARGET = (torch.randn(5, dtype=torch.float64, generator=DRAW).log_softmax(dim=0) for _ in range(3))
# The target times 3.
SCORES = TARGET + math.log(3)


def f(name, t):
    """The generator of each divergence of the policy p_θ and the target p, f(t) with t = p_θ/p, under p."""
    return {
        "forward_kl": lambda: -t.log(),
        "reverse_kl": lambda: t * t.log(),
        "js": lambda: t * t.log() - (t + 1) * ((t + 1) / 2).log(),
        "total_variation": lambda: (t - 1).abs() / 2,
        "chi_square": lambda: (1 - t).square() / t,
        "reverse_chi_square": lambda: (t - 1).square(),
    }[name]()


def expected_gradient(loss, logits, proposal=None, scores=SCORES):
    """Over one completion of the proposal, by enumeration."""
    log_p = logits.log_softmax(dim=0)
    drawn_by = log_p.detach() if proposal is None else proposal
    total = torch.zeros_like(logits)
    for x in range(len(logits)):
        old = None if proposal is None else proposal[x].view(1, 1)
        value = loss(log_p[x].view(1, 1), scores[x].view(1), old)
        total += drawn_by[x].exp() * torch.autograd.grad(value, logits, retain_graph=True)[0]
    return total


def with_z(name, z=3.0, **options):
    loss = FDPG(name, **options)
    loss.log_sum.fill_(math.log(z))
    loss.seen.fill_(1)
    return loss


@pytest.mark.parametrize("name", DIVERGENCES)
def test_its_expected_gradient_is_that_of_the_divergence(name):
    logits = POLICY.clone().requires_grad_()
    divergence = (TARGET.exp() * f(name, (logits.log_softmax(dim=0) - TARGET).exp())).sum()
    (wanted,) = torch.autograd.grad(divergence, logits)
    for proposal in (None, PROPOSAL):
        torch.testing.assert_close(expected_gradient(with_z(name), logits, proposal), wanted)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_its_expected_gradient_is_0_at_the_target_also_with_a_wrong_z(name):
    logits = TARGET.clone().requires_grad_()
    # In the total variation rounding must not say on which side of the target a policy is.
    at = logits.detach().log_softmax(dim=0)
    for scores in (at, at + 0.7):
        assert expected_gradient(FDPG(name), logits, scores=scores).abs().max() < 1e-14


def test_the_reverse_divergence_is_reinforcement_with_a_kl_penalty():
    reward, beta = torch.randn(5, dtype=torch.float64, generator=DRAW), 0.5
    ref, logits = PROPOSAL, POLICY.clone().requires_grad_()
    log_p = logits.log_softmax(dim=0)
    (wanted,) = torch.autograd.grad((log_p.exp() * (log_p - ref - reward / beta)).sum(), logits, retain_graph=True)
    total = torch.zeros_like(logits)
    for x in range(5):
        value = FDPG("reverse_kl")(log_p[x].view(1, 1), (ref + reward / beta)[x].view(1))
        total += log_p.detach()[x].exp() * torch.autograd.grad(value, logits, retain_graph=True)[0]
    torch.testing.assert_close(total, wanted)


def test_z_is_the_mean_over_all_completions_so_far_whatever_batches_they_come_in():
    one, other = FDPG(), FDPG()
    one.after_step(logps=PROPOSAL.unsqueeze(1), target_log_scores=SCORES)
    for rows in (slice(0, 3), slice(3, 5)):
        other.after_step(
            logps=POLICY[rows].unsqueeze(1), old_logps=PROPOSAL[rows].unsqueeze(1), target_log_scores=SCORES[rows]
        )
    wanted = (SCORES - PROPOSAL).exp().mean()
    torch.testing.assert_close([one.log_z.exp(), other.log_z.exp()], [wanted, wanted])
    assert int(other.seen) == 5


def test_the_baseline_is_the_mean_of_the_last_slopes_and_begins_with_the_second_batch():
    loss = FDPG("total_variation", window=4).double()
    assert loss.baseline == 0
    # log t: of signs +, -, +, then with Z, of which the first two are forgotten.
    loss.after_step(logps=torch.zeros(3, 1), target_log_scores=torch.tensor([-1.0, 1.0, -1.0]))
    torch.testing.assert_close(float(loss.baseline), -(0.5 - 0.5 + 0.5) / 3)
    assert float(loss.log_z) > 0
    loss.after_step(logps=torch.zeros(3, 1), target_log_scores=torch.tensor([9.0, 9.0, 9.0]))
    torch.testing.assert_close(float(loss.baseline), -(0.5 - 0.5 - 0.5 - 0.5) / 4)


def test_a_baseline_moves_the_value_by_itself_times_the_log_probability():
    loss, without = with_z("js", window=8), with_z("js", window=0)
    loss.recent[:2], loss.counted[:2] = 3.0, True
    given = (POLICY.unsqueeze(1), SCORES, PROPOSAL.unsqueeze(1))
    torch.testing.assert_close(loss(*given) - without(*given), 3.0 * ((POLICY - PROPOSAL).exp() * POLICY).mean())


@pytest.mark.parametrize("name", DIVERGENCES)
def test_completions_that_the_target_excludes_are_finite_and_become_no_likelier(name):
    loss = FDPG(name)
    leaf = torch.tensor([[-1.0], [-2.0]], requires_grad=True)
    value = loss(leaf, torch.tensor([-torch.inf, -torch.inf]))
    (slope,) = torch.autograd.grad(value, leaf)
    assert torch.isfinite(value) and torch.isfinite(slope).all() and (slope >= -1e-12).all()
    loss.after_step(logps=leaf.detach(), target_log_scores=torch.tensor([-torch.inf, -torch.inf]))
    assert loss.log_z == 0
    loss.after_step(logps=leaf.detach(), target_log_scores=torch.tensor([0.0, -torch.inf]))
    torch.testing.assert_close(loss.log_z.exp(), torch.tensor(math.e / 4, dtype=torch.float64))


def test_empty_completions_count_for_nothing_and_what_is_not_finite_is_not_kept():
    mask = torch.tensor([[1], [0], [1], [1], [1]])
    kept = [0, 2, 3, 4]
    holed = SCORES.clone().index_fill(0, torch.tensor([1]), torch.nan)
    loss, alone = FDPG(window=6), FDPG(window=6)
    torch.testing.assert_close(
        loss(POLICY.unsqueeze(1), holed, None, mask), alone(POLICY[kept].unsqueeze(1), SCORES[kept])
    )
    loss.after_step(logps=POLICY.unsqueeze(1), target_log_scores=holed, completion_mask=mask)
    alone.after_step(logps=POLICY[kept].unsqueeze(1), target_log_scores=SCORES[kept])
    torch.testing.assert_close([loss.log_z, loss.baseline, loss.seen], [alone.log_z, alone.baseline, alone.seen])
    before = {name: buffer.clone() for name, buffer in loss.named_buffers()}
    loss.after_step(logps=POLICY.unsqueeze(1), target_log_scores=holed)
    assert torch.equal(loss.log_z, alone.log_z) and torch.equal(loss.seen, before["seen"])


def test_ratios_that_overflow_are_finite():
    leaf = torch.tensor([[-1.0]], requires_grad=True)
    for name in DIVERGENCES:
        value = FDPG(name)(leaf, torch.tensor([1e4]), torch.tensor([[-1e4]]))
        assert torch.isfinite(value) and torch.isfinite(torch.autograd.grad(value, leaf)[0]).all(), name


def test_scores_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"^f_dpg: target_log_scores of shape \[4\] came with 5 completions; give log P"
    ):
        FDPG()(POLICY.unsqueeze(1), SCORES[:4])
