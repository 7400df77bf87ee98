"""The formula that docs/scale.md extrapolates by is what is counted."""

import pytest

from benchmarks.communication_volume import counted, formula


@pytest.mark.distributed
@pytest.mark.parametrize("processes", [2, 3])
def test_the_formula_is_what_is_counted(processes):
    tensors = [(5, True), (7, False), (0, False)]
    assert counted(tensors, 6, processes) == formula(tensors, 6, processes)
    # By hand: sizes 3 x 8, parts 120 + 168 + 48, and twice the trained part backward.
    assert formula(tensors, 6, 2) == 3 * 8 + 120 + 168 + 48 + 2 * 120
