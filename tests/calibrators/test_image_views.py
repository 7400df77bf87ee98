import pytest
import torch

from lightning_losses.calibrators import image_views

VIEWS = ["rotate", "grayscale", "color_jitter", "translate", "blur"]


def test_every_view_keeps_the_shape_and_depends_on_its_image_alone():
    images = torch.randn(5, 3, 14, 10)
    whole = image_views(images, VIEWS)
    for name, view in zip(VIEWS, whole, strict=True):
        assert view.shape == images.shape, name
        assert (view - images).abs().max() > 0.01, name
        torch.testing.assert_close(image_views(images[2:3], [name])[0], view[2:3])


def test_a_rotation_turns_what_is_off_the_centre_by_fifteen_degrees():
    rows, columns = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(61.0) - 30, indexing="ij")
    spot = torch.exp(-((rows - 0).square() + (columns - 15).square()) / 8)
    (turned,) = image_views(spot[None, None], ["rotate"])
    mass = turned[0, 0] / turned.sum()
    down, right = float((mass * rows).sum()), float((mass * columns).sum())
    # The spot is at distance 15 from the centre, wherever the image's sides are.
    assert (down**2 + right**2) ** 0.5 == pytest.approx(15, abs=0.1)
    assert abs(down / right) == pytest.approx(0.2679, abs=0.01)


def test_grayscale_is_the_luminance_and_leaves_other_channels_alone():
    image = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
    assert image_views(image, ["grayscale"])[0].flatten().tolist() == pytest.approx([1.815] * 3)
    single = torch.randn(2, 1, 4, 4)
    assert torch.equal(image_views(single, ["grayscale"])[0], single)


def test_a_constant_image_stays_finite():
    for view in image_views(torch.zeros(1, 3, 2, 2), VIEWS):
        assert torch.equal(view, torch.zeros(1, 3, 2, 2))


@pytest.mark.parametrize("views", [[], ["flip"], "rotate", ["rotate", "nothing"]])
def test_other_names_are_refused_with_the_choices(views):
    with pytest.raises(ValueError, match="rotate, grayscale, color_jitter, translate, blur"):
        image_views(torch.zeros(1, 3, 4, 4), views)


@pytest.mark.parametrize("images", [torch.zeros(3, 4, 4), torch.zeros(2, 3, 4, 4, dtype=torch.uint8)])
def test_what_is_no_batch_of_images_is_refused(images):
    with pytest.raises(ValueError, match=r"\[B, C, H, W\]"):
        image_views(images, ["rotate"])
