import pytest
import torch

from lightning_losses.losses import GlocalAlignment

GENERATOR = torch.Generator().manual_seed(0)
MASKED, FULL = (torch.randn(2, 4, 3, dtype=torch.float64, generator=GENERATOR) for _ in range(2))


@pytest.mark.parametrize("axis", ["conventional", "reference"])
def test_values_from_the_definitions(axis):
    own = 2 if axis == "conventional" else 1
    scores = torch.stack([torch.nn.functional.normalize(one, dim=-1) for one in (MASKED, FULL)])
    scores = torch.einsum("btd,bud->btu", *scores)
    contrast = [scores[b].logsumexp(dim=own - 1)[t] - scores[b, t, t] for b in range(2) for t in range(4)]
    expected = torch.stack(contrast).reshape(2, 4).mean(dim=1)
    torch.testing.assert_close(GlocalAlignment(axis=axis, reduction="none")(MASKED, FULL), expected)
    cosine = 1 - torch.cosine_similarity(MASKED, FULL, dim=own).mean()
    torch.testing.assert_close(GlocalAlignment("cosine", axis)(MASKED, FULL), cosine)


def test_other_tokens_are_refused():
    with pytest.raises(ValueError) as caught:
        GlocalAlignment()(MASKED, FULL[:, :3])
    assert str(caught.value) == (
        "glocal_alignment: target_token_embeddings of shape [2, 3, 3] came with token_embeddings of shape [2, 4, 3]; "
        "give [B, T, D] for both, T and D at least 1."
    )
