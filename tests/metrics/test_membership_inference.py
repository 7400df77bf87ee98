import math
import os

import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from lightning_losses.metrics import MembershipInference, membership_inference
from tests.distributed.processes import in_group, run_on_processes


def sample(rows=300, *, ties=False):
    generator = torch.Generator().manual_seed(0)
    members = torch.rand(rows, generator=generator) < 0.4
    scores = torch.randn(rows, generator=generator, dtype=torch.float64) + 0.5 * members
    return (scores.round() if ties else scores), members


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("fpr", [0.0, 0.01, 0.2])
def test_values_of_scikit_learn(ties, fpr):
    scores, members = sample(ties=ties)
    audit = membership_inference(scores, members, fpr=fpr)
    wrong, right, _ = roc_curve(members, scores, drop_intermediate=False)
    assert math.isclose(audit.auroc, roc_auc_score(members, scores), rel_tol=1e-12)
    assert math.isclose(audit.tpr_at_fpr, right[wrong <= fpr].max(), rel_tol=1e-12)
    assert math.isclose(audit.balanced_accuracy, ((right + 1 - wrong) / 2).max(), rel_tol=1e-12)


def test_monotone_transforms_change_nothing():
    scores, members = sample()
    assert membership_inference(scores, members) == membership_inference(scores.exp() - 7, members)


def test_scores_of_one_distribution_tell_nothing():
    scores, members = sample(20_000)
    audit = membership_inference(scores[torch.randperm(len(scores))], members)
    assert abs(audit.auroc - 0.5) < 0.02 and audit.balanced_accuracy < 0.53
    # All alike: every threshold takes all or none.
    assert list(membership_inference(torch.zeros(4), torch.tensor([True, True, False, False]))) == [0.5, 0.0, 0.5]


def test_groups_are_ranked_by_their_means():
    scores, members = sample(8)
    alone = torch.arange(8)
    assert membership_inference(scores, members, alone) == membership_inference(scores, members)
    members = torch.tensor([True] * 4 + [False] * 4)
    groups = torch.tensor([3, 3, 9, 9, 1, 1, 4, 4])
    averaged = membership_inference(scores.view(4, 2).mean(1), members[::2])
    torch.testing.assert_close(tuple(membership_inference(scores, members, groups)), tuple(averaged))


def test_without_others_it_is_nan():
    for members in (torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)):
        assert all(value.isnan() for value in membership_inference(torch.arange(3.0), members))
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert all(value.isnan() for value in MembershipInference().compute().values())


def test_batches_add_up():
    scores, members = sample()
    metric = MembershipInference(fpr=0.1)
    for rows in (slice(0, 7), slice(7, 200), slice(200, None)):
        metric.update(scores[rows].float().double(), members[rows])
    assert list(metric.compute().values()) == list(membership_inference(scores.float(), members, fpr=0.1))


def audited(expected):
    scores, members = sample()
    rank = int(os.environ["RANK"])
    metric = MembershipInference()
    own = slice(0, 40) if rank == 0 else slice(40, None)
    metric.update(scores[own], members[own], torch.arange(len(scores))[own])
    assert [float(value) for value in metric.compute().values()] == expected


@pytest.mark.distributed
def test_two_processes_audit_all_samples():
    run_on_processes(in_group, 2, audited, [float(value) for value in membership_inference(*sample())])


@pytest.mark.parametrize(
    ("scores", "members", "groups", "words"),
    [
        (torch.tensor([1.0, torch.nan]), torch.tensor([True, False]), None, "1 scores are NaN"),
        (torch.zeros(2), torch.tensor([True]), None, r"members of shape \[1\] came with scores of shape \[2\]"),
        (
            torch.zeros(2),
            torch.tensor([True, False]),
            torch.tensor([5, 5]),
            r"the groups \[5\] hold members and others",
        ),
        (torch.zeros(2), torch.tensor([1, -1]), None, "members holds values other than 0 and 1"),
    ],
    ids=["nan", "shape", "mixed", "marks"],
)
def test_what_can_not_be_ranked_is_refused(scores, members, groups, words):
    with pytest.raises(ValueError, match=words):
        membership_inference(scores, members, groups)


def test_groups_in_some_batches_alone_are_refused():
    metric = MembershipInference()
    metric.update(*sample(4))
    with pytest.raises(ValueError, match="groups came in some batches"):
        metric.update(*sample(4), torch.arange(4))
