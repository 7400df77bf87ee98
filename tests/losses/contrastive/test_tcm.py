import torch

from lightning_losses import TCM
from tests.losses.contrastive.cases import classed


def test_it_is_the_mean_over_pairs_on_the_wrong_side():
    embeddings, target = classed()
    wrong = {True: [], False: []}
    for i in range(12):
        for j in range(i):
            cosine = torch.cosine_similarity(embeddings[i], embeddings[j], dim=0)
            like = bool(target[i] == target[j])
            if cosine <= 0.6 if like else cosine >= 0.1:
                wrong[like].append(0.6 - cosine if like else cosine - 0.1)
    assert min(map(len, wrong.values())) > 1
    expected = 2 * torch.stack(wrong[True]).mean() + 0.5 * torch.stack(wrong[False]).mean()
    torch.testing.assert_close(TCM(0.6, 0.1, 2.0, 0.5)(embeddings, target), expected)


def test_pairs_on_the_right_side_have_no_gradient():
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], requires_grad=True)
    loss = TCM()(embeddings, torch.tensor([0, 0, 1]))
    assert loss == 0
    assert not torch.autograd.grad(loss, embeddings)[0].any()
