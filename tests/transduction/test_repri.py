import pytest
import torch

from lightning_losses.transduction import Prototype, RePRI, repri_terms


def task(noise=0.5, share=0.125, tasks=2):
    """Foreground in the upper rows of one image, and in fewer rows of another."""
    mask = torch.zeros(tasks, 1, 8, 8, dtype=torch.int64)
    mask[..., :4, :] = 1
    truth = torch.zeros_like(mask)
    truth[..., : round(8 * share), :] = 1
    random = torch.Generator().manual_seed(1)

    def features(foreground):
        one, other = (torch.tensor(row)[:, None, None] for row in ([1.0, 1, 0] + [0] * 5, [1.0, 0, 1] + [0] * 5))
        direction = torch.where(foreground.unsqueeze(2) == 1, one, other)
        return direction + noise * torch.randn(tasks, 1, 8, 8, 8, generator=random)

    return features(mask), mask, features(truth), truth


def error(found, truth):
    return (found.foreground.round() != truth).double().mean().item()


def test_it_finds_the_foreground_and_known_proportions_help():
    support, mask, query, truth = task()
    estimated = RePRI()(support, mask, query)
    share = torch.tensor([[0.875, 0.125]] * 2)
    known = RePRI()(support, mask, query, proportions=share)
    before = RePRI(steps=1, learning_rate=1e-9)(support, mask, query)
    assert error(known, truth) < 0.15 < error(estimated, truth) < 0.25 < error(before, truth)
    assert torch.equal(known.proportions, share)
    assert (estimated.proportions[:, 1] - 0.125).abs().max() < (before.proportions[:, 1] - 0.125).abs().max()


def test_terms_vanish_where_they_should_and_ignored_pixels_count_for_nothing():
    support, mask, query, _ = task()
    prototype = Prototype(torch.tensor([[1.0, 0.5, 0, 0, 0, 0, 0, 0]] * 2), torch.zeros(2))
    valid = torch.ones(2, 1, 8, 8)
    terms = repri_terms(prototype, support, mask, query, valid, torch.full((2, 2), 0.5))
    own = repri_terms(prototype, support, mask, query, valid, terms.marginal)
    torch.testing.assert_close(own.divergence, torch.zeros(2), rtol=0, atol=1e-6)
    assert (terms.divergence > 0.01).all()
    mask[:, :, 0], valid[:, :, -1] = 255, 0
    support[..., 0, :], query[..., -1, :] = 1e3, -1e3
    fewer = repri_terms(prototype, support, mask, query, valid, terms.marginal)
    cut = repri_terms(
        prototype, support[..., 1:, :], mask[..., 1:, :], query[..., :-1, :], valid[..., :-1, :], terms.marginal
    )
    for one, other in zip(fewer, cut, strict=True):
        torch.testing.assert_close(one, other)


def test_autocast_rounds_no_terms():
    support, mask, query, _ = task()
    prototype = Prototype(torch.linspace(-1, 1, 8).repeat(2, 1), torch.zeros(2))
    given = support, mask, query, torch.ones(2, 1, 8, 8), torch.full((2, 2), 0.5)
    expected = repri_terms(prototype, *given)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(repri_terms(prototype, *given), expected, rtol=0, atol=0)


def test_it_takes_masks_of_another_size_in_inference_mode_and_changes_nothing():
    support, mask, query, _ = task()
    larger = mask.repeat_interleave(3, dim=-1).repeat_interleave(3, dim=-2)
    with torch.inference_mode():
        found = RePRI(steps=3)(support + 0, larger, query + 0)
    torch.testing.assert_close(found.foreground, RePRI(steps=3)(support, mask, query).foreground)
    assert not found.foreground.requires_grad and not found.foreground.is_inference()


def test_tasks_do_not_depend_on_each_other_and_the_refresh_is_where_it_says():
    support, mask, query, _ = task(tasks=3)
    together = RePRI()(support, mask, query).foreground
    alone = RePRI()(support[1:2], mask[1:2], query[1:2]).foreground
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)
    early, never, late = (RePRI(steps=9, refresh=step)(support, mask, query) for step in (2, 99, 10))
    assert not torch.equal(early.foreground, never.foreground)
    # Taken anew after the last step, it is reported and changes no prediction.
    assert torch.equal(late.foreground, never.foreground) and not torch.equal(late.proportions, never.proportions)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s, m, q: (s, m * 0, q), "a task has no pixel of foreground"),
        (lambda s, m, q: (s, m[0], q), r"a mask of \[1, 8, 8\]"),
        (lambda s, m, q: (s, m, q[:, :, :2]), r"queries of \[2, 1, 2, 8, 8\]"),
        (lambda s, m, q: (s.long(), m, q), "support has dtype torch.int64"),
        (lambda s, m, q: (s, m, q / 0), "query holds NaN or inf"),
        (lambda s, m, q: (s, torch.where(m == 0, -1, m), q), "a mask holds values other than 1"),
        (lambda s, m, q: (s, m, q, torch.ones(2, 1, 4, 4)), r"valid of shape \[2, 1, 4, 4\] came"),
        (lambda s, m, q: (s, m, q, torch.full((2, 1, 8, 8), 255)), "a number from 0 to 1 for each pixel"),
        (lambda s, m, q: (s, m, q, None, torch.tensor([0.5, 0.5])), r"proportions of shape \[2\] came for 2 tasks"),
        (lambda s, m, q: (s, m, q, None, torch.tensor([[-1.0, 2.0]] * 2)), "shares of .* which sum to 1"),
        (lambda s, m, q: (s, m, q, None, torch.ones(2, 2)), "shares of .* which sum to 1"),
    ],
    ids=[
        "background",
        "mask",
        "width",
        "whole numbers",
        "nan",
        "values",
        "size",
        "255",
        "one share",
        "negative",
        "sum",
    ],
)
def test_what_can_not_be_segmented_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        RePRI()(*change(*task()[:3]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_no_less_precise(dtype):
    support, mask, query, _ = task()
    support, query = support.to(dtype), query.to(dtype)
    support[..., 0, 0] = query[..., 0, 0] = 0
    wanted = RePRI()(support.float(), mask, query.float()).foreground
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(RePRI()(support, mask, query).foreground, wanted)
    double = RePRI()(support.double(), mask, query).foreground
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), wanted, rtol=1e-3, atol=1e-4)


def test_steps_that_diverge_are_refused():
    with pytest.raises(ValueError, match="the steps diverged; lower learning_rate"):
        RePRI(learning_rate=1e9)(*task()[:3])
