import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import UNPG, ArcFace, CosFace
from lightning_losses.losses.margins.unpg import negative_pairs

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(6, 3, dtype=torch.float64, generator=GENERATOR).tanh()
EMBEDDINGS = torch.randn(6, 4, dtype=torch.float64, generator=GENERATOR)
TARGET = torch.tensor([0, 2, 1, 2, 0, 1])


@pytest.mark.parametrize("whisker", [0.1, 1e6])
def test_pairs_are_further_classes_of_every_row(whisker):
    directions = F.normalize(EMBEDDINGS, dim=1)
    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6) if TARGET[i] != TARGET[j]]
    cosines = torch.stack([directions[i] @ directions[j] for i, j in pairs]).sort().values
    first, third = cosines[len(pairs) // 4], cosines[3 * len(pairs) // 4]
    reach = whisker * (third - first)
    chosen = cosines[(cosines >= first - reach) & (cosines <= third + reach)]
    assert (len(chosen) == len(pairs)) == (whisker > 1)
    scores = 8 * torch.cat([LOGITS - 0.2 * F.one_hot(TARGET, 3), chosen.expand(6, -1)], dim=1)
    loss = UNPG(margin=0.2, scale=8.0, whisker=whisker)
    torch.testing.assert_close(loss(LOGITS, TARGET, EMBEDDINGS), F.cross_entropy(scores, TARGET))


@pytest.mark.parametrize(("variant", "head"), [("cosface", CosFace), ("arcface", ArcFace)])
def test_without_a_pair_it_is_the_loss_of_the_head_and_with_one_it_is_more(variant, head):
    loss, of_head = UNPG(variant, margin=0.3), head(margin=0.3)
    alike = torch.zeros_like(TARGET)
    logits = LOGITS.clone().requires_grad_()
    value = loss(logits, alike, EMBEDDINGS)
    torch.testing.assert_close(value, of_head(logits, alike))
    slopes = [torch.autograd.grad(each, logits)[0] for each in (value, of_head(logits, alike))]
    torch.testing.assert_close(*slopes)
    assert loss(LOGITS, TARGET, EMBEDDINGS) > of_head(LOGITS, TARGET)


def test_what_is_no_number_is_no_outlier():
    cosines = torch.tensor([[1.0, 0.1, torch.nan], [0.1, 1.0, 0.2], [torch.nan, 0.2, 1.0]])
    assert bool(negative_pairs(cosines, torch.tensor([0, 1, 2]), torch.ones(3, dtype=torch.bool), 1.5)[0, 2])


def test_an_angle_of_pi_and_embeddings_of_other_samples_are_refused():
    with pytest.raises(ValueError) as error:
        UNPG("arcface", margin=3.5)
    assert str(error.value) == "unpg: margin=3.5 came with variant='arcface'; give radians below 3.14159."
    with pytest.raises(ValueError) as error:
        UNPG()(LOGITS, TARGET, EMBEDDINGS[1:])
    assert str(error.value) == (
        "unpg: embeddings of shape [5, 4] came with logits of shape [6, 3]; give a vector for each row, [..., D] with "
        "D of at least 1."
    )
    with pytest.raises(ValueError, match=r"embeddings of shape \[6, 0\] came"):
        UNPG()(LOGITS, TARGET, EMBEDDINGS[:, :0])
