import pytest

from lightning_losses.kernels.products import cuda_chunk
from lightning_losses.numerics.products import spans

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
