import pytest
import torch

from lightning_losses.losses import AttentionTransfer
from tests.losses.strategies import gradient

MODES = pytest.mark.parametrize("mode", ["code", "paper"])


def maps(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@MODES
def test_value_from_the_definition(mode):
    student, teacher = maps(2, 3, 4, 5), maps(2, 6, 4, 5)
    attention = [(f**2).mean(dim=1).flatten(1) for f in (student, teacher)]
    difference = attention[0] / attention[0].norm(dim=1, keepdim=True) - attention[1] / attention[1].norm(
        dim=1, keepdim=True
    )
    expected = (difference**2).mean() if mode == "code" else difference.norm(dim=1).mean()
    torch.testing.assert_close(AttentionTransfer(mode=mode)(student, teacher), expected)


@pytest.mark.parametrize("p", [1.0, 2.5, 3.0])
def test_powers_are_of_absolute_values(p):
    student, teacher = maps(2, 3, 4, 5), maps(2, 6, 4, 5)
    attention = [f.abs().pow(p).mean(dim=1).flatten(1) for f in (student, teacher)]
    expected = (torch.sub(*(a / a.norm(dim=1, keepdim=True) for a in attention)) ** 2).mean()
    torch.testing.assert_close(AttentionTransfer(p=p)(student, teacher), expected)


@MODES
def test_scale_and_order_of_channels_do_not_matter(mode):
    student, teacher = maps(2, 3, 4, 4), maps(2, 5, 4, 4)
    value = AttentionTransfer(mode=mode)(student, teacher)
    torch.testing.assert_close(AttentionTransfer(mode=mode)(7 * student.flip(1), teacher), value)
    torch.testing.assert_close(AttentionTransfer(mode=mode)(student, -0.1 * teacher.flip(1)), value)


@pytest.mark.parametrize("p", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1e12, 1e30])
def test_maps_of_any_scale_have_the_same_value(scale, p):
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    loss = AttentionTransfer(p=p)
    torch.testing.assert_close(loss(scale * student, teacher / scale), loss(student, teacher))


@MODES
def test_equal_maps_are_zero_with_a_finite_gradient(mode):
    student = maps(2, 3, 4, 4)
    assert AttentionTransfer(mode=mode)(student, student).item() == 0
    assert bool((gradient(AttentionTransfer(mode=mode), student, student) == 0).all())


@MODES
def test_maps_of_zeros_are_finite(mode):
    slope = gradient(AttentionTransfer(mode=mode), torch.zeros(2, 3, 4, 4), torch.rand(2, 3, 4, 4))
    assert bool(torch.isfinite(slope).all())


@pytest.mark.parametrize("sizes", [(8, 4), (4, 8)])
def test_the_larger_map_is_averaged_down(sizes):
    student, teacher = maps(2, 3, sizes[0], sizes[0]), maps(2, 3, sizes[1], sizes[1])
    small = [torch.nn.functional.avg_pool2d(f, f.shape[-1] // 4) for f in (student, teacher)]
    torch.testing.assert_close(AttentionTransfer()(student, teacher), AttentionTransfer()(*small))


def test_layers_add_up():
    student = {"a": maps(2, 3, 4, 4), "b": maps(2, 3, 2, 2)}
    teacher = {"x": maps(2, 5, 4, 4), "y": maps(2, 5, 2, 2)}
    each = [AttentionTransfer()(s, t) for s, t in zip(student.values(), teacher.values(), strict=True)]
    torch.testing.assert_close(AttentionTransfer()(student, teacher), sum(each))


@pytest.mark.parametrize(
    "student, teacher, message",
    [
        (torch.zeros(2, 3), torch.zeros(2, 3, 4, 4), r"feature_maps of shape \[2, 3\]"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(3, 3, 4, 4), "teacher_feature_maps of 3 samples.* 2"),
        ({"a": torch.zeros(2, 3, 4, 4)}, {}, "1 feature_maps came with 0"),
        (torch.zeros(2, 3, 4, 4).long(), torch.zeros(2, 3, 4, 4), "feature_maps has dtype torch.int64"),
    ],
)
def test_maps_that_do_not_fit_are_refused(student, teacher, message):
    with pytest.raises(ValueError, match=f"^attention_transfer: {message}"):
        AttentionTransfer()(student, teacher)


@pytest.mark.parametrize("options", [{"p": 0.5}, {"mode": "other"}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=f"^attention_transfer: {next(iter(options))}"):
        AttentionTransfer(**options)
