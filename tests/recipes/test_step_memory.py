"""The memory of a step, by hand."""

import torch

from lightning_losses.experiments.training.step_memory import step_memory

CPU = torch.device("cpu")


def test_the_peak_is_that_of_what_is_held_together():
    def step():
        # 4 kB and 8 kB together; 2 kB after both are gone.
        first = torch.zeros(1000)
        second = torch.cat([first, first])
        del first, second
        torch.zeros(500)

    assert step_memory(step, CPU) == 12_000
    assert step_memory(step, CPU) == 12_000


def test_what_stays_is_not_counted():
    kept = []

    def step():
        if not kept:
            kept.append(torch.zeros(10_000))
        torch.zeros(250)

    assert step_memory(step, CPU) == 1000


def test_a_loss_that_needs_more_costs_more():
    logits = torch.zeros(64, 100, requires_grad=True)

    def pairs():
        torch.cdist(logits, logits, p=1).sum().backward()
        logits.grad = None

    def rows():
        logits.logsumexp(dim=1).sum().backward()
        logits.grad = None

    assert step_memory(pairs, CPU) > step_memory(rows, CPU) > 64 * 100 * 4
