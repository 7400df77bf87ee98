"""Measures of out-of-distribution detection: against sklearn, ties, both conventions, refusals, two processes."""

import os

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from lightning_losses.metrics import MembershipInference, OutOfDistributionDetection, out_of_distribution_detection
from tests.distributed.processes import in_group, run_on_processes


def sample(count=120):
    random = torch.Generator().manual_seed(3)
    is_ood = torch.rand(count, generator=random) < 0.4
    # Rounded, so that many are equal.
    scores = (torch.randn(count, generator=random, dtype=torch.float64) - is_ood.double()).mul(4).round() / 4
    return scores, is_ood


def false_positives(scores, positive):
    """By trying every threshold."""
    for threshold in sorted(set(scores.tolist()), reverse=True):
        if (scores[positive] >= threshold).double().mean() >= 0.95:
            return (scores[~positive] >= threshold).double().mean().item()


def test_values_are_those_of_sklearn_and_of_every_threshold_tried():
    scores, is_ood = sample()
    found = out_of_distribution_detection(scores, is_ood)
    inside = (~is_ood).numpy()
    assert [value.item() for value in found] == pytest.approx(
        [
            roc_auc_score(inside, scores),
            false_positives(scores, ~is_ood),
            false_positives(-scores, is_ood),
            average_precision_score(inside, scores),
            average_precision_score(~inside, -scores),
        ]
    )
    # The two conventions differ, and the order of the scores alone counts.
    assert found.fpr95_id_positive != found.fpr95_ood_positive
    assert out_of_distribution_detection(scores.exp(), is_ood) == found


@pytest.mark.parametrize("metric", [OutOfDistributionDetection, MembershipInference])
def test_what_is_kept_is_not_what_the_caller_goes_on_changing(metric):
    scores, marks = sample()
    kept, expected = metric(), metric()
    expected.update(scores.clone(), marks.clone())
    kept.update(scores, marks)
    scores.neg_(), marks.logical_not_()
    assert kept.compute() == expected.compute()


def test_a_score_that_tells_nothing_and_one_that_tells_all():
    is_ood = torch.tensor([True, False, True, False])
    nothing = out_of_distribution_detection(torch.zeros(4), is_ood)
    assert [value.item() for value in nothing] == [0.5, 1.0, 1.0, 0.5, 0.5]
    everything = out_of_distribution_detection((~is_ood).double(), is_ood)
    assert [value.item() for value in everything] == [1.0, 0.0, 0.0, 1.0, 1.0]


def collected(expected):
    scores, is_ood = sample()
    metric = OutOfDistributionDetection()
    # Each process has samples of one kind alone.
    own = is_ood if os.environ["RANK"] == "0" else ~is_ood
    for rows in own.nonzero().flatten().split(17):
        metric.update(scores[rows], is_ood[rows])
    assert [float(value) for value in metric.compute().values()] == expected


@pytest.mark.distributed
def test_two_processes_measure_all_samples():
    run_on_processes(in_group, 2, collected, [float(value) for value in out_of_distribution_detection(*sample())])


@pytest.mark.parametrize(
    ("scores", "is_ood", "words"),
    [
        (torch.tensor([1.0, torch.nan]), torch.tensor([True, False]), "1 scores are NaN"),
        (torch.zeros(2), torch.tensor([True]), r"is_ood of shape \[1\] came with scores of shape \[2\]"),
        (torch.zeros(3), torch.tensor([0, 1, -100]), "is_ood holds values other than 0 and 1"),
        (torch.zeros(2), torch.tensor([True, True]), "0 samples in distribution and 2 out of it came"),
        (torch.zeros(3), torch.zeros(3).bool(), "3 samples in distribution and 0 out of it came"),
    ],
    ids=["nan", "shape", "ignored", "foreign alone", "known alone"],
)
def test_what_can_not_be_told_apart_is_refused(scores, is_ood, words):
    with pytest.raises(ValueError, match=words):
        out_of_distribution_detection(scores, is_ood)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="0 samples in distribution and 0 out of it came"):
        OutOfDistributionDetection().compute()
