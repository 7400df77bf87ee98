import pytest
import torch

from lightning_losses.networks.crisp_clustering import CrispClustering
from lightning_losses.numerics.maxsim import maxsim

GENERATOR = torch.Generator().manual_seed(0)
QUERIES = torch.randn(2, 4, 3, dtype=torch.float64, generator=GENERATOR)
TOKENS = torch.randn(3, 6, 3, dtype=torch.float64, generator=GENERATOR)
MASK = torch.arange(6) < torch.tensor([[6], [2], [4]])


def test_enough_clusters_are_the_tokens():
    for clustering in (CrispClustering(clusters=9), CrispClustering(share=1.0)):
        means, mask = clustering(TOKENS, MASK)
        torch.testing.assert_close(maxsim(QUERIES, means, None, mask), maxsim(QUERIES, TOKENS, None, MASK))


def test_one_cluster_is_mean_pooling():
    means, mask = CrispClustering(clusters=1)(TOKENS, MASK)
    expected = torch.stack([own[there].mean(dim=0) for own, there in zip(TOKENS, MASK, strict=True)])
    torch.testing.assert_close(means.squeeze(1), expected)
    assert mask.all()


def test_a_share_counts_the_tokens_of_each_text():
    _, mask = CrispClustering(share=0.5)(TOKENS, MASK)
    assert mask.sum(dim=-1).tolist() == [3, 1, 2]
    # In float32 0.15 times 100 is more than 15.
    assert CrispClustering(share=0.15)(torch.zeros(1, 100, 1)).means.shape[1] == 15


@pytest.mark.parametrize("autocast", [False, True])
def test_a_sum_of_tokens_in_float16_is_finite(autocast):
    tokens = torch.full((1, 1024, 1), 100.0, dtype=torch.float32 if autocast else torch.float16)
    with torch.autocast("cpu", torch.float16, enabled=autocast):
        means, _ = CrispClustering(clusters=1)(tokens)
    assert means.dtype == tokens.dtype and means.item() == 100


def test_padding_never_enters_and_no_token_leaves_all():
    garbage = TOKENS.masked_fill(~MASK.unsqueeze(-1), torch.nan)
    means, _ = CrispClustering(clusters=2)(garbage, MASK)
    expected, _ = CrispClustering(clusters=2)(TOKENS, MASK)
    torch.testing.assert_close(means, expected)
    assert not CrispClustering(clusters=2)(TOKENS, torch.zeros(3, 6)).mask.any()
    # The nearest centre of each token is that of its own cluster, as k-means ends.
    long = CrispClustering(clusters=2, steps=20)(TOKENS, MASK).means
    moved = torch.cdist(TOKENS[:1], long[:1]).argmin(dim=-1).squeeze(0)
    for number in (0, 1):
        torch.testing.assert_close(TOKENS[0, moved == number].mean(dim=0), long[0, number])


def test_gradient_is_that_of_the_means_with_fixed_members():
    assert torch.autograd.gradcheck(
        lambda tokens: CrispClustering(clusters=2)(tokens, MASK).means, TOKENS.requires_grad_()
    )


def test_both_settings_or_none_are_refused():
    for options in ({}, {"clusters": 2, "share": 0.5}):
        with pytest.raises(
            ValueError, match=r"^crisp_clustering: clusters=.* came with share=.*; give one of the two\.$"
        ):
            CrispClustering(**options)
