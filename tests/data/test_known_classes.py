import numpy as np
import pytest
import torch

from lightning_losses.data import Digits, ImageData, KnownClasses
from lightning_losses.data.image_data import Images
from lightning_losses.data.known_classes import resized


class Rows(ImageData):
    """A row of 9 numbers a sample, all equal to its class."""

    name, num_classes, input_shape, class_names = "rows", 4, (1, 9), ("a", "b", "c", "d")

    def read(self):
        target = np.arange(80) % 4
        return Images(np.repeat(target[:, None, None], 9, axis=2).astype(np.float32), target.astype(np.int64))


class Short(Rows):
    name, input_shape = "short", (1, 3)

    def read(self):
        images = super().read()
        return Images(images.pixels[..., :3], images.target)


def known(**options):
    return KnownClasses(**{"source": Rows(), "left_out": [1], "num_classes": 3, "input_shape": [1, 9], **options})


def test_classes_are_left_out_and_the_others_numbered_anew():
    data = known(foreign={"short": Short()}, noise_rows=7, split_seed=5)
    data.setup()
    assert data.class_names == ("a", "c", "d")
    parts = (data.train, data.val, data.test)
    assert sum(map(len, parts)) == 60
    for part in parts:
        # Back to the numbers: classes 0, 2 and 3 of the source.
        numbers = part.inputs * data.input_deviation + data.input_mean
        assert torch.equal(numbers[:, 0, 0].round().long(), torch.tensor([0, 2, 3])[part.target])
    foreign = data.foreign_sets()
    assert {name: tuple(part.inputs.shape) for name, part in foreign.items()} == {
        "left out": (20, 1, 9),
        "short": (80, 1, 9),
        "noise": (7, 1, 9),
    }
    raw = foreign["left out"].inputs * data.input_deviation + data.input_mean
    torch.testing.assert_close(raw, torch.ones_like(raw))
    assert all((part.target == -100).all() and part.inputs.dtype == torch.float32 for part in foreign.values())
    assert known(noise_rows=0, left_out=[3]).foreign_sets().keys() == {"left out"}
    assert torch.equal(foreign["noise"].inputs, known(noise_rows=7, split_seed=5).foreign_sets()["noise"].inputs)


def test_images_become_larger_by_interpolation_and_smaller_by_means():
    image = torch.arange(16.0).reshape(1, 1, 4, 4).numpy()
    assert resized(image, [1, 2, 2]).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    larger = resized(image, [1, 8, 8])
    assert larger.shape == (1, 1, 8, 8) and larger.mean() == pytest.approx(7.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"left_out": [4]}, r"left_out=\[4\] came for rows of 4 classes; leave at least two"),
        ({"left_out": [0, 1, 2]}, "leave at least two"),
        ({"num_classes": 4}, "num_classes=4 came; it has 3 classes"),
        ({"foreign": {"digits": Digits()}}, r"digits: inputs of shape \[1, 8, 8\] came beside \[1, 9\]"),
        ({"left_out": 1}, "left_out=1 came; give a list of classes"),
        ({"foreign": {"noise": Digits()}}, "foreign data came by the name 'noise', which is taken; rename them"),
    ],
    ids=["unknown", "too few", "number", "images", "no list", "name"],
)
def test_what_does_not_fit_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        known(**options).foreign_sets()
