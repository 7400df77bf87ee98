import pytest
import torch
import torch.nn.functional as F

from lightning_losses.networks.colbert_projection import ColBERTProjection

STATES = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))


def test_the_linear_one_is_a_matrix_alone():
    projection = ColBERTProjection(8, dim=4)
    assert [name for name, _ in projection.named_parameters()] == ["last.weight"]
    torch.testing.assert_close(projection(STATES), F.normalize(STATES @ projection.last.weight.mT, dim=-1))


@pytest.mark.parametrize("gated", [False, True])
def test_a_last_layer_of_zeros_leaves_the_linear_residual(gated):
    projection = ColBERTProjection(8, dim=4, depth=2, gated=gated)
    torch.nn.init.zeros_(projection.last.weight)
    torch.nn.init.zeros_(projection.last.bias)
    torch.testing.assert_close(projection(STATES), F.normalize(projection.residual(STATES), dim=-1))


def test_hidden_layers_are_wider_and_gates_multiply():
    projection = ColBERTProjection(8, dim=4, depth=1, widening=3, gated=True, activation="silu")
    (hidden,) = projection.hidden
    assert projection.residual is None and hidden.value.out_features == 24
    expected = projection.last(hidden.value(STATES) * F.silu(hidden.gate(STATES)))
    torch.testing.assert_close(projection(STATES), F.normalize(expected, dim=-1))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"depth": 3}, "colbert_projection: depth=3 came; choose one of 0, 1, 2."),
        ({"dim": 0}, "colbert_projection: dim=0 came; give a whole number of at least 1."),
        ({"activation": "tanh"}, "colbert_projection: activation='tanh' came; choose one of 'relu', 'gelu', 'silu'."),
    ],
    ids=["depth", "dim", "activation"],
)
def test_what_there_is_not_is_refused(options, told):
    with pytest.raises(ValueError) as error:
        ColBERTProjection(8, **options)
    assert str(error.value) == told
