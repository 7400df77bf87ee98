import torch
import torch.nn.functional as F

from lightning_losses.losses import MaxSim

GENERATOR = torch.Generator().manual_seed(0)
QUERIES = torch.randn(3, 2, 4, dtype=torch.float64, generator=GENERATOR)
DOCUMENTS = torch.randn(3, 5, 4, dtype=torch.float64, generator=GENERATOR)


def test_value_from_the_definition():
    q, d = F.normalize(QUERIES, dim=-1), F.normalize(DOCUMENTS, dim=-1)
    scores = torch.stack(
        [torch.stack([sum(max(t @ s for s in document) for t in query) for document in d]) for query in q]
    )
    expected = F.cross_entropy(scores / 0.5, torch.arange(3))
    torch.testing.assert_close(MaxSim(temperature=0.5)(QUERIES, DOCUMENTS), expected)


def test_padding_counts_nothing_whatever_it_holds():
    short, masks = MaxSim()(QUERIES[:, :1], DOCUMENTS[:, :3]), (torch.zeros(3, 2), torch.zeros(3, 5))
    masks[0][:, 0], masks[1][:, :3] = 1, 1
    padded = [QUERIES.clone(), DOCUMENTS.clone()]
    padded[0][:, 1], padded[1][:, 3:] = torch.nan, torch.inf
    padded = [each.requires_grad_() for each in padded]
    value = MaxSim()(*padded, *masks)
    torch.testing.assert_close(value, short)
    assert all(bool(slope.isfinite().all()) for slope in torch.autograd.grad(value, padded))


def test_a_pair_without_tokens_is_as_if_absent():
    masks = torch.ones(3, 2), torch.ones(3, 5)
    masks[1][1] = 0
    leaves = [each.clone().requires_grad_() for each in (QUERIES, DOCUMENTS)]
    value = MaxSim()(*leaves, *masks)
    torch.testing.assert_close(value, MaxSim()(QUERIES[[0, 2]], DOCUMENTS[[0, 2]]))
    assert all(bool((slope[1] == 0).all()) for slope in torch.autograd.grad(value, leaves))
    given = dict(zip(MaxSim.inputs(), (*leaves, *masks), strict=True))
    assert int(MaxSim().denominator(**given)) == 2


def test_a_vector_of_length_0_learns_nothing():
    rows = torch.randn(8, 4)
    rows[0] = 0
    rows.requires_grad_()
    gradient = torch.autograd.grad(MaxSim()(rows.unsqueeze(1), torch.randn(8, 3, 4)), rows)[0]
    assert (gradient[0] == 0).all() and (gradient[1:] != 0).any()
