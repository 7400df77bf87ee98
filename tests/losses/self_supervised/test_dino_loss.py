import pytest
import torch

from lightning_losses.losses import DINOLoss

GENERATOR = torch.Generator().manual_seed(0)
S, S_B, T, T_B = (torch.randn(4, 3, dtype=torch.float64, generator=GENERATOR) for _ in range(4))


def entropy_between(teacher, student, sharp=0.04, smooth=0.1):
    return -((teacher / sharp).softmax(dim=-1) * (student / smooth).log_softmax(dim=-1)).sum(dim=-1)


def test_each_view_predicts_the_other_views_teacher():
    expected = (entropy_between(T, S_B) + entropy_between(T_B, S)) / 2
    torch.testing.assert_close(DINOLoss(3, reduction="none")(S, S_B, T, T_B), expected)
    crop = torch.stack([S + 1, S_B * 2], dim=1)
    further = [entropy_between(t, s) for t in (T, T_B) for s in crop.unbind(dim=1)]
    torch.testing.assert_close(DINOLoss(3, reduction="none")(S, S_B, T, T_B, crop), (2 * expected + sum(further)) / 6)


def test_the_centre_follows_the_teacher_and_is_saved():
    loss = DINOLoss(3, momentum=0.75).double()
    for _ in range(2):
        loss.after_step(target_embeddings=T, target_embeddings_b=T_B)
    mean = torch.cat([T, T_B]).mean(dim=0)
    torch.testing.assert_close(loss.centre, 0.25 * mean + 0.75 * 0.25 * mean)
    centred = DINOLoss(3).double()
    centred.load_state_dict(loss.state_dict())
    torch.testing.assert_close(centred(S, S_B, T + loss.centre, T_B + loss.centre), DINOLoss(3)(S, S_B, T, T_B))


def test_a_step_that_is_not_finite_leaves_the_centre_where_it_is():
    loss = DINOLoss(3).double()
    loss.after_step(target_embeddings=T, target_embeddings_b=T_B)
    before = loss.centre.clone()
    loss.after_step(target_embeddings=T, target_embeddings_b=T_B / 0)
    assert before.any() and torch.equal(loss.centre, before)


def test_the_teachers_temperature_warms_up_in_equal_steps():
    loss = DINOLoss(3, teacher_temperature=0.07, warm_up_temperature=0.04, warm_up_epochs=4)
    assert [round(loss.temperature_at(epoch), 6) for epoch in range(6)] == [0.04, 0.05, 0.06, 0.07, 0.07, 0.07]
    expected = DINOLoss(3, teacher_temperature=0.05)(S, S_B, T, T_B)
    torch.testing.assert_close(loss(S, S_B, T, T_B, epoch=1), expected)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, "warm_up_epochs=4 came without an epoch; give epoch=, or warm_up_epochs=0."),
        (
            {"embeddings": S[:, :2], "embeddings_b": S[:, :2], "target_embeddings": S[:, :2],
             "target_embeddings_b": S[:, :2]},
            "embeddings of shape [4, 2] came with feature_dim=3; give as many dimensions.",
        ),
        (
            {"crop_embeddings": S},
            "crop_embeddings of shape [4, 3] came with embeddings of shape [4, 3]; give [B, V, D] of the same samples "
            "and width.",
        ),
    ],
    ids=["epoch", "width", "crops"],
)  # fmt: skip
def test_what_does_not_fit_is_refused(change, told):
    given = {"embeddings": S, "embeddings_b": S_B, "target_embeddings": T, "target_embeddings_b": T_B, **change}
    with pytest.raises(ValueError) as caught:
        DINOLoss(3, warm_up_epochs=4)(**given)
    assert str(caught.value) == f"dino_loss: {told}"
