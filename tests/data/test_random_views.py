"""Random views of images and signals."""

import pytest
import torch

from lightning_losses.data.random_views import RandomAffine, RandomSignal
from lightning_losses.data.seeded_views import RandomShift, seeded_views


def drawn(view, inputs, seed=0):
    return view(inputs, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("view", "inputs"),
    [
        (RandomAffine(degrees=0.0, scale=0.0, shift=0.0), torch.randn(2, 6, 5)),
        (RandomSignal(shift=0, scale=0.0, slope=0.0, noise=0.0), torch.randn(2, 7)),
    ],
    ids=["image", "signal"],
)
def test_without_changes_a_view_is_the_sample(view, inputs):
    torch.testing.assert_close(drawn(view, inputs), inputs)


def test_a_signal_is_moved_around_and_stretched():
    signal = torch.arange(8.0).unsqueeze(0)
    moved = drawn(RandomSignal(shift=8, scale=0.0, slope=0.0, noise=0.0), signal, seed=1)
    assert sorted(moved[0].tolist()) == signal[0].tolist() and not torch.equal(moved, signal)
    stretched = drawn(RandomSignal(shift=0, scale=0.5, slope=0.0, noise=0.0), signal)
    ratio = stretched[0, 1:] / signal[0, 1:]
    assert 0.5 <= ratio[0] <= 1.5 and ratio[0] != 1
    torch.testing.assert_close(ratio, ratio[0].expand(7))
    line = drawn(RandomSignal(shift=0, scale=0.0, slope=2.0, noise=0.0), signal) - signal
    torch.testing.assert_close(line.diff(), line.diff()[:, :1].expand(1, 7))


def test_an_image_is_turned_around_its_centre_and_covered():
    image = torch.zeros(1, 9, 9)
    image[0, 4, 1:8] = 1.0
    quarter = [drawn(RandomAffine(degrees=90.0, scale=0.0, shift=0.0), image, seed) for seed in range(20)]
    # The bar keeps its middle, whichever way it is turned, and stands upright in some.
    assert all(view[0, 4, 4] > 0.9 for view in quarter)
    assert any(view[0, 1, 4] > 0.4 for view in quarter)
    covered = drawn(RandomAffine(degrees=0.0, scale=0.0, shift=0.0, cover=0.5), torch.ones(1, 8, 8) + torch.eye(8))
    assert int((covered == 1).sum() - 56) in range(1, 5)


def test_a_view_depends_on_its_generator_alone():
    image = torch.randn(1, 8, 8)
    view = RandomAffine(noise=0.1, cover=0.3)
    assert torch.equal(drawn(view, image, 3), drawn(view, image, 3))
    assert not torch.equal(drawn(view, image, 3), drawn(view, image, 4))
    with pytest.raises(ValueError) as caught:
        RandomAffine(scale=1.0)
    assert str(caught.value) == "RandomAffine: scale=1.0 came; give a number at least 0 and below 1."


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint8])
@pytest.mark.parametrize(
    "view", [RandomAffine(noise=0.1), RandomSignal(), RandomShift(2)], ids=["affine", "signal", "shift"]
)
def test_views_of_other_dtypes_are_those_of_float32(view, dtype):
    if dtype == torch.uint8 and not isinstance(view, RandomShift):
        pytest.skip("its views are no whole numbers")
    # Numbers that every dtype holds.
    inputs = torch.randint(0, 9, (64, 1, 40) if isinstance(view, RandomSignal) else (64, 1, 6, 6))
    expected = seeded_views(view, inputs.float(), 0, places=range(64))
    views = seeded_views(view, inputs.to(dtype), 0, places=range(64))
    assert views.dtype == dtype
    # Places are rounded by up to 0.03 pixels in bfloat16, an eighth of that in float16, between values up to 8 apart.
    limit = {torch.float16: 0.05, torch.bfloat16: 0.4}.get(dtype, 1e-5)
    torch.testing.assert_close(views.float(), expected, rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("view", "inputs"),
    [
        (RandomAffine(cover=0.3, noise=0.1), torch.randn(5, 2, 6, 5)),
        (RandomSignal(shift=3), torch.randn(5, 2, 7)),
        (RandomShift(2), torch.randn(5, 2, 6, 5)),
        # A function of one sample, such as people's own.
        (lambda sample, generator: sample + torch.rand((), generator=generator), torch.randn(5, 3)),
    ],
    ids=["affine", "signal", "shift", "function"],
)
def test_views_of_a_batch_are_those_of_its_samples_alone(view, inputs):
    places = torch.tensor([4, 9, 2**40, 9, 0])
    whole = seeded_views(view, inputs, 3, 1, places=places)
    assert whole.shape == inputs.shape and not torch.equal(whole, inputs)
    for number, place in enumerate(places.tolist()):
        alone = seeded_views(view, inputs[number : number + 1], 3, 1, places=[place])
        torch.testing.assert_close(alone[0], whole[number])
    same = seeded_views(view, inputs[:1].expand_as(inputs), 3, 1, places=places)
    torch.testing.assert_close(same[1], same[3])
    for others in (seeded_views(view, inputs, 3, 2, places=places), same[[1, 2, 0, 4, 3]]):
        assert not torch.allclose(others, whole)
    assert seeded_views(view, inputs[:0], 0, places=[]).shape == inputs[:0].shape
    with pytest.raises(ValueError, match="4 places came with inputs of shape"):
        seeded_views(view, inputs, 0, places=[1, 2, 3, 4])
