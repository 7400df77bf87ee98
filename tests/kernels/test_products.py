import pytest
import torch

from lightning_losses.kernels.products import cuda_chunk
from lightning_losses.numerics import products
from lightning_losses.numerics.products import accumulate, spans

pytestmark = pytest.mark.kernels


@pytest.mark.parametrize("vocabulary", [1, 1000, 32768, 50257, 128256, 10**6])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_chunks_on_a_gpu_are_even_and_within_bounds(vocabulary, itemsize):
    for tokens in (0, 1, 127, 128, 1024, 4096, 4097, 8192, 10**6):
        chunk = cuda_chunk(tokens, vocabulary, itemsize)
        assert chunk % 128 == 0 and 128 <= chunk <= 4096
        assert chunk * vocabulary * itemsize <= max(2**29, 1024 * vocabulary * itemsize)
        sizes = [rows.stop - rows.start for rows in spans(tokens, chunk)]
        # Rounded up to a multiple of 128, and no chunk more than there must be.
        assert max(sizes) <= chunk < max(tokens / len(sizes), 1) + 128


@pytest.mark.parametrize(
    ("vocabulary", "earlier", "hopper"), [(128256, 2048, 2048), (256000, 1024, 2048), (32768, 4096, 4096)]
)
def test_chunks_on_hopper_are_of_2048_tokens_whatever_the_vocabulary(monkeypatch, vocabulary, earlier, hopper):
    device = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, expected in (((8, 0), earlier), ((9, 0), hopper), ((10, 0), hopper)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda asked, one=capability: {device: one}[asked])
        assert cuda_chunk(8192, vocabulary, 2, device) == expected


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("rows", "inner", "columns"), [(23, 5, 3), (4, 23, 7), (1, 1, 1)])
def test_products_of_float16_gather_in_float32_by_tiles(monkeypatch, rows, inner, columns, first):
    monkeypatch.setattr(products, "_RAISED", 4)
    a, b = (torch.randn(size, inner).mul_(300).half() for size in (rows, columns))
    total = torch.full((rows, columns), torch.nan) if first else torch.ones(rows, columns)
    expected = a.float() @ b.float().T + (0 if first else 1)
    accumulate(total, a, b, first)
    # float32's rounding of sums whose terms reach 1e6, added in another order.
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=0.1)
