"""Linear cross-entropy of a head whose rows are split over processes."""


def vocabulary_range(vocabulary: int, rank: int, processes: int) -> range:
    """The rows of the head that a process holds: as even as can be, the first processes with one more.

    Example:
        >>> [vocabulary_range(7, rank, 3) for rank in range(3)]
        [range(0, 3), range(3, 5), range(5, 7)]
    """
    share, extra = divmod(vocabulary, processes)
    start = rank * share + min(rank, extra)
    return range(start, start + share + (rank < extra))
