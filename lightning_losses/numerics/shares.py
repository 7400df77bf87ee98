"""How many of a number of things a share is."""

from fractions import Fraction


def share_of(share: float, count: int) -> int:
    """``floor(share * count)`` of the share as it is written: in binary 0.29 is less, and 28 of 100.

    Example:
        >>> share_of(0.29, 100), int(0.29 * 100)
        (29, 28)
    """
    return int(Fraction(str(float(share))) * count)
