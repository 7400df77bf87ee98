"""A batch in three domains of unlike sizes, and what every loss of domains keeps."""

import torch

GENERATOR = torch.Generator().manual_seed(0)
DOMAIN = torch.tensor([0, 1, 2, 2, 1, 0, 0, 2, 1, 0, 2])
LOGITS = 2 * torch.randn(11, 4, dtype=torch.float64, generator=GENERATOR)
TARGET = torch.randint(0, 4, (11,), generator=GENERATOR)
FEATURES = torch.randn(11, 3, dtype=torch.float64, generator=GENERATOR)
ROWS = [(domain == DOMAIN).nonzero().flatten() for domain in range(3)]


def without(domain):
    """The rows of the other domains."""
    return (domain != DOMAIN).nonzero().flatten()
