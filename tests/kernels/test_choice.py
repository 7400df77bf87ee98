"""One ordered tuple of implementations: the names that are taken, the preference of "auto", the table of the page."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from lightning_losses.kernels import choice
from lightning_losses.kernels.choice import IMPLEMENTATIONS, choose, named
from lightning_losses.kernels.cross_entropy.problem import Impl, Problem
from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from lightning_losses.kernels.terms import Terms

pytestmark = pytest.mark.kernels

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"


def problem(tokens=3, vocabulary=5, device="cpu", **options):
    hidden, weight = (torch.zeros(length, 2, device=device) for length in (tokens, vocabulary))
    target = torch.zeros(tokens, dtype=torch.int64, device=device)
    return Problem(hidden, weight, target, Terms(vocabulary), **options)


def test_the_names_are_those_of_the_implementations_in_their_order():
    names = tuple(implementation.name for implementation in IMPLEMENTATIONS)
    assert get_args(Impl) == ("auto", *names)
    assert [named(name) for name in names] == list(IMPLEMENTATIONS) and named("auto") is None
    with pytest.raises(ValueError, match=", ".join(map(repr, names))):
        linear_cross_entropy(torch.zeros(1, 2), torch.zeros(3, 2), torch.tensor([0]), impl="fastest")


def test_the_page_has_their_table():
    rows = [f"| `{one.name}` | {one.products} | {one.memory} | {one.purpose} |" for one in IMPLEMENTATIONS]
    assert "\n".join(["|---|---|---|---|", *rows, "", "The table"]) in PAGE.read_text()


def test_auto_takes_the_first_that_can_and_has_merit(monkeypatch):
    small, large = problem(), problem(1000, 2000)
    assert choose(small)[0].name == "reference"
    assert choose(large._replace(per_row=True))[0].name == "recompute"
    assert choose(small._replace(filter_eps=0.1))[0].name == "recompute"
    for device in ("cpu", "meta"):
        assert choose(problem(1000, 2000, device))[0].name in ("avx512", "chunked")
    monkeypatch.setattr(choice, "IMPLEMENTATIONS", tuple(reversed(IMPLEMENTATIONS)))
    # Those that are taken by request alone come first now, and are passed over.
    assert choose(small)[0].name == "recompute"


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda implementation: implementation.name)
def test_what_is_not_refused_is_evaluated(implementation):
    """Each gives the mean of log V on equal scores, or says in a sentence why it can't."""
    asked = [
        {},
        {"per_row": True},
        {"filter_eps": 1e-9},
        {"chunk": (2, 2)},
        {"sort_vocabulary": True},
        {"accum_dtype": torch.float32},
        {"bias": torch.zeros(5)},
        {"z_scale": 0.0},
    ]
    for options in asked:
        one = problem(shape=torch.Size([3]), scale=1 / 3, **options)
        if refusal := implementation.refuses(one):
            assert refusal.endswith(".") and "; " in refusal, refusal
            assert "use " in refusal
        else:
            with torch.compiler.set_stance("force_eager"):
                value = implementation.evaluate(one)
            torch.testing.assert_close(value.loss, torch.tensor(5.0).log())
            assert not one.per_row or value.lse is not None
