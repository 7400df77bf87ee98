"""The kernel of distillation without a GPU: its numbers by the interpreter, its resources from the compiler."""

import pytest
import torch

from lightning_losses import losses
from lightning_losses.kernels.linear_distillation import linear_distillation
from lightning_losses.kernels.rows.objectives import objective_of
from tests.kernels.compiled import SHARED_MEMORY, compiles
from tests.kernels.cross_entropy.test_triton import lines_of

pytestmark = pytest.mark.kernels

# Scores in bfloat16 have 8 bits, in float16 11.
TOLERANCE = {"float32": 3e-6, "bfloat16": 1e-2, "float16": 2e-3}
# Triton 3.8; the code of other versions takes a few registers more.
SPILLED = 16


def interpreted():
    return lines_of("tests.kernels.rows.triton_cases", True)


def test_values_and_gradients_equal_the_losses_in_float64():
    cases = [line for line in interpreted() if "errors" in line]
    assert len(cases) == 16 * (2 + 1) + 4 + (16 + 4 * 2) + 16 + 2
    for line in cases:
        assert max(line["errors"]) <= TOLERANCE[line["dtype"]], line


def test_a_row_that_is_not_a_number_stays_so_and_alone():
    cases = [line for line in interpreted() if "nan" in line]
    assert len(cases) == 2 * 16
    for line in cases:
        assert line["nan"] == [False, True, False], line


@compiles
@pytest.mark.slow
def test_the_compiled_kernel_neither_spills_nor_exceeds_shared_memory():
    lines = lines_of("tests.kernels.rows.triton_compiled", False)
    assert len(lines) == 9 * (3 + 1 + 1)
    for line in lines:
        assert line["spilled"] <= SPILLED, line
        assert line["shared"] <= SHARED_MEMORY[line["architecture"]], line
        assert 0 < line["registers"] <= 255, line
        # Also where the vocabulary is an odd number.
        assert line["wide"] > 0, line


@pytest.mark.parametrize(
    ("loss", "taken"),
    [
        (losses.KD(), True),
        (losses.GeneralizedJSD(0.3), True),
        (losses.SkewKL(1.0), False),
        (losses.ABDivergence(0.0, 0.0), False),
        (losses.ABDivergence(0.0, 1.0), True),
        (losses.ABDivergence(0.2, 0.7), True),
        (losses.ABDivergence(1.0, 0.1), False),
        (losses.DKD(), False),
        (type("Own", (losses.KD,), {})(), False),
    ],
    ids=repr,
)
def test_the_kernel_takes_classes_and_settings_that_it_knows(loss, taken):
    assert (objective_of(loss) is not None) == taken


@pytest.mark.parametrize(
    ("loss", "message"), [(losses.KD(), "needs a CUDA device.*TRITON_INTERPRET"), (losses.DKD(), "no functions")]
)
def test_what_the_kernel_can_not_do_is_said(loss, message):
    eye = torch.eye(3, 4)
    with pytest.raises(ValueError, match=message):
        linear_distillation(
            eye, torch.ones(5, 4), eye, torch.ones(5, 4), torch.zeros(3).long(), objective=loss, impl="triton"
        )
