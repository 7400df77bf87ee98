import pytest
import torch

from lightning_losses.optim.gradient_alignment import aligned_gradients


def gradients(count=3):
    return [torch.randn(4, k + 1, dtype=torch.float64) for k in range(count)]


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


@pytest.mark.parametrize("sign", [1, -1])
def test_the_merged_gradient_never_works_against_the_main_one(sign):
    main, auxiliary = gradients(), gradients()
    if flat(main) @ flat(auxiliary) * sign < 0:
        auxiliary = [-tensor for tensor in auxiliary]
    added = flat(aligned_gradients(main, auxiliary)) - flat(main)
    if sign > 0:
        torch.testing.assert_close(added, flat(auxiliary))
    else:
        torch.testing.assert_close(flat(main) @ added, torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(added @ added, added @ flat(auxiliary))  # a projection


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float32, 1e-30), (torch.float32, 1e25), (torch.float16, 1e-3), (torch.float16, 500.0)]
)
def test_gradients_of_any_size_are_merged(dtype, size):
    main, auxiliary = (size * torch.tensor(values) for values in ([1.0, 0.0], [-2.0, 3.0]))
    (merged,) = aligned_gradients([main.to(dtype)], [auxiliary.to(dtype)])
    assert merged.dtype == dtype
    torch.testing.assert_close(merged.float() / size, torch.tensor([1.0, 3.0]), rtol=2e-3, atol=1e-6)


def test_without_a_main_gradient_the_auxiliary_one_stays():
    auxiliary = gradients()
    merged = aligned_gradients([torch.zeros_like(tensor) for tensor in auxiliary], auxiliary)
    torch.testing.assert_close(merged, auxiliary)
    assert aligned_gradients([], []) == []


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="^gradient_alignment: "):
        aligned_gradients([torch.zeros(2)], [torch.zeros(3)])
