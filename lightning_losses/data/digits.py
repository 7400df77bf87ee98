"""The digits of scikit-learn: a data set for runs of seconds."""

import numpy as np

from lightning_losses.data.image_data import ImageData, Images


class Digits(ImageData):
    """1797 handwritten digits of 8x8 pixels, from scikit-learn.

    Source:
        Alpaydin and Kaynak, 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository.

    Example:
        >>> digits = Digits(batch_size=32)
        >>> digits.setup()
        >>> len(digits.train), len(digits.val), len(digits.test)
        (1079, 359, 359)
    """

    name = "digits"
    num_classes = 10
    input_shape = (1, 8, 8)
    class_names = tuple("0123456789")

    def read(self) -> Images:
        """The digits as scikit-learn loads them."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ValueError(
                "digits: scikit-learn is not installed; pip install 'lightning-losses[data]' brings it."
            ) from error
        pixels, target = load_digits(return_X_y=True)
        return Images((pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8), target.astype(np.int64))
