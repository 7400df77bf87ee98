"""Barriers, continual accuracies and learning-rate sensitivity at their limits."""

import copy

import pytest
import torch
from torch import nn

from lightning_losses.diagnostics.continual_accuracy import (
    stability_gap,
    windowed_forgetting,
    windowed_plasticity,
    worst_case_accuracy,
)
from lightning_losses.diagnostics.learning_rate_sensitivity import learning_rate_sensitivity
from lightning_losses.diagnostics.linear_mode_connectivity import interpolated_losses, loss_barrier


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def squares(module):
    return sum(parameter.square().sum().item() for parameter in module.parameters())


def test_a_network_and_itself_have_no_barrier():
    state = network().state_dict()
    positions, losses = interpolated_losses(network(), state, state, squares)
    assert loss_barrier(positions, losses).linear == pytest.approx(0, abs=1e-5)


def test_a_convex_path_has_none_and_its_ends_are_exact():
    start, end = network(), network()
    module = network()
    before = copy.deepcopy(module.state_dict())
    positions, losses = interpolated_losses(module, start.state_dict(), end.state_dict(), squares, points=5)
    assert losses[0] == squares(start) and losses[-1] == squares(end)
    barrier = loss_barrier(positions, losses)
    assert barrier.linear == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_a_mirrored_network_lies_behind_a_barrier():
    start = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    nn.init.ones_(start[0].weight)
    nn.init.ones_(start[2].weight)
    end = {"0.weight": -start[0].weight.detach(), "2.weight": start[2].weight.detach()}
    inputs = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])

    def loss(module):
        return (module(inputs).sum() - 1).square().item()

    positions, losses = interpolated_losses(start, start.state_dict(), end, loss)
    barrier = loss_barrier(positions, losses)
    assert barrier.linear == pytest.approx(1) and barrier.position == 0.5


def test_one_layer_moves_alone_and_statistics_are_refreshed():
    start, end, seen = network(), network(), []

    def refresh(module):
        seen.append(torch.equal(module[3].weight, start[3].weight))

    interpolated_losses(
        network(), start.state_dict(), end.state_dict(), squares, points=3, prefix="0.", refresh=refresh
    )
    assert seen == [True, True, True]


def test_other_states_are_refused():
    module = network()
    with pytest.raises(ValueError, match=r"0\.bias"):
        interpolated_losses(module, module.state_dict(), {"0.weight": torch.ones(1)}, squares)
    with pytest.raises(ValueError, match="begins with"):
        interpolated_losses(module, module.state_dict(), module.state_dict(), squares, prefix="9.")
    with pytest.raises(ValueError, match="2 or more"):
        loss_barrier([0.0], [1.0])


def brute(accuracy, window):
    pairs = [(i, j) for j in range(len(accuracy)) for i in range(max(0, j - window + 1), j)]
    return max([0.0, *(accuracy[i] - accuracy[j] for i, j in pairs)])


@pytest.mark.parametrize("window", [1, 2, 5, 100])
def test_windows_are_the_largest_pair(window):
    accuracy = torch.rand(50).tolist()
    assert windowed_forgetting(accuracy, window) == pytest.approx(brute(accuracy, window))
    assert windowed_plasticity(accuracy, window) == pytest.approx(brute([-a for a in accuracy], window))


def test_constant_curves_neither_forget_nor_learn():
    assert windowed_forgetting([0.7] * 9) == windowed_plasticity([0.7] * 9) == windowed_forgetting([]) == 0


def test_the_worst_case_is_no_better_than_the_mean():
    accuracy, current = torch.rand(30, 3), torch.arange(30) // 10
    minima, worst = worst_case_accuracy(accuracy, current)
    assert (minima[:10] == 0).all() and torch.equal(worst[:10], accuracy[:10, 0])
    for step in range(30):
        task = int(current[step])
        assert worst[step] <= accuracy[step, : task + 1].mean() + 1e-6
    lowest = torch.stack([accuracy[10:30, 0].min(), accuracy[20:30, 1].min()])
    torch.testing.assert_close(minima[29], lowest.mean())


def test_the_stability_gap_is_from_a_tasks_end_to_its_lowest_since():
    accuracy, current = torch.rand(30, 4, dtype=torch.float64), torch.arange(30) // 10
    gaps = stability_gap(accuracy, current)
    assert (gaps[:10] == 0).all()
    for step in range(10, 30):
        ends = [(task, accuracy[10 * task + 9, task], accuracy[10 * task + 10 : step + 1, task].min())
                for task in range(int(current[step]))]  # fmt: skip
        assert gaps[step] == pytest.approx(sum(max(0.0, float(end - low)) for _, end, low in ends) / len(ends))
    # What fell and recovered counts; what was never learnt has no end to fall from.
    assert stability_gap(torch.tensor([[0.9, 0.1], [0.2, 0.3], [0.9, 0.9]]), torch.tensor([0, 1, 1])).tolist() == (
        pytest.approx([0.0, 0.7, 0.7])
    )
    assert stability_gap(torch.tensor([[0.1, 0.9, 0.1]]), torch.tensor([2])).tolist() == [0]


def test_sensitivity_counts_divergence_as_no_start():
    assert learning_rate_sensitivity([2.0, 2.0], 3.0) == 0
    assert learning_rate_sensitivity([1.0, float("inf"), 9.0], 3.0) == pytest.approx(4 / 3)
    with pytest.raises(ValueError, match="no losses"):
        learning_rate_sensitivity([], 3.0)
