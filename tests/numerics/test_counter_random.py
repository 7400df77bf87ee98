"""Numbers of a seed and a key: within their range to the last bit, in every dtype."""

import pytest
import torch

from lightning_losses.numerics import counter_random
from lightning_losses.numerics.counter_random import counter_normals, counter_uniforms, row_normals, row_uniforms

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
KEYS = torch.arange(50)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ends_of_the_range_are_finite_too(dtype, monkeypatch):
    # All bits 0, and all 1: of the latter there is one among 16 million numbers.
    for bits in (0, -1):
        monkeypatch.setattr(counter_random, "_mix", lambda numbers, bits=bits: torch.full_like(numbers, bits))
        for drawn in (row_normals(torch.zeros(2, 3, dtype=dtype), 0, KEYS[:2]), counter_normals(KEYS.to(dtype), 0, 1)):
            assert drawn.dtype == dtype and drawn.isfinite().all() and (drawn.sign() == (1 if bits else -1)).all()
        for uniform in (
            row_uniforms(torch.zeros(2, 3, dtype=dtype), 0, KEYS[:2]),
            counter_uniforms(KEYS.to(dtype), 0, 1),
        ):
            assert ((uniform >= 0) & (uniform <= 1)).all()
            assert dtype.itemsize < 4 or ((uniform > 0) & (uniform < 1)).all()


def test_a_counter_may_be_a_float_of_any_size():
    drawn = [counter_normals(torch.zeros(3), 0, counter) for counter in (2**24 + 1, 2.0**24 + 1, 2.0**24)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])


@pytest.mark.parametrize("draw", [row_normals, row_uniforms])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_has_the_same_numbers(draw, dtype):
    drawn, expected = (draw(torch.zeros(50, 40, dtype=kind), 3, KEYS) for kind in (dtype, torch.float64))
    # To the digits of each dtype at sizes up to 4. A uniform number that float32 rounds by 3e-8 moves a normal one by
    # that over its density, which is 1.6e-4 at the largest of these, 3.96.
    torch.testing.assert_close(drawn.double(), expected, rtol=0, atol=4 * torch.finfo(dtype).eps + 3e-8 / 1.5e-4)
