import pytest
import torch

from lightning_losses.losses import LoadBalancing

LOGITS = 2 * torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def from_the_definition(rows, k):
    experts = len(rows[0])
    chosen = [sorted(range(experts), key=lambda e: -row[e])[:k] for row in rows.tolist()]
    share = [sum(e in one for one in chosen) / (k * len(rows)) for e in range(experts)]
    mean = [float(rows.softmax(dim=-1)[:, e].mean()) for e in range(experts)]
    return experts * sum(f * p for f, p in zip(share, mean, strict=True))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_value_from_the_definition_also_of_each_layer_and_of_unmasked_tokens(k):
    loss = LoadBalancing(top_k=k)
    assert loss(LOGITS).item() == pytest.approx(from_the_definition(LOGITS.flatten(0, 1), k), rel=1e-12)
    layers = LoadBalancing(top_k=k, per_layer=True)
    wanted = sum(from_the_definition(LOGITS[:, layer], k) for layer in range(5)) / 5
    assert layers(LOGITS).item() == pytest.approx(wanted, rel=1e-12)
    mask = torch.tensor([1, 0, 1])
    masked = LOGITS.clone()
    masked[1] = torch.nan
    torch.testing.assert_close(layers(masked, mask), layers(LOGITS[[0, 2]]), rtol=1e-12, atol=0)
    each = mask.unsqueeze(-1).expand(3, 5).clone()
    each[0, 3] = 0
    torch.testing.assert_close(loss(masked, each), loss(LOGITS[each.bool()]), rtol=1e-12, atol=0)
    assert int(loss.denominator(router_logits=masked, attention_mask=each)) == 9


def test_balance_is_1_and_collapse_the_number_of_experts():
    torch.testing.assert_close(LoadBalancing(top_k=2)(torch.zeros(7, 4)), torch.tensor(1.0))
    torch.testing.assert_close(LoadBalancing()(200 * torch.eye(4)), torch.tensor(1.0))
    torch.testing.assert_close(LoadBalancing()(200 * torch.eye(4)[[2, 2, 2]]), torch.tensor(4.0))


def test_the_gradient_moves_tokens_from_the_expert_that_has_more():
    logits = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], requires_grad=True)
    LoadBalancing()(logits).backward()
    assert bool((logits.grad[:, 0] > 0).all()) and bool((logits.grad[:, 1] < 0).all())


def test_no_tokens_are_0_also_where_all_are_masked():
    logits = LOGITS.clone().requires_grad_()
    value = LoadBalancing()(logits, torch.zeros(3, 5, dtype=torch.bool))
    value.backward()
    assert value.item() == 0 and bool((logits.grad == 0).all())


@pytest.mark.parametrize(
    ("options", "logits", "mask", "message"),
    [
        ({"top_k": 5}, LOGITS, None, "top_k=5 came with 4 experts; give at most as many."),
        (
            {"per_layer": True},
            LOGITS[0],
            None,
            "router_logits of shape [5, 4] came with per_layer=True; give [..., layers, experts].",
        ),
        (
            {},
            LOGITS,
            torch.ones(5),
            "attention_mask of shape [5] came with router_logits of shape [3, 5, 4]; give [3, 5], or [3] for all "
            "layers alike.",
        ),
        (
            {},
            LOGITS[0],
            torch.ones(()),
            "attention_mask of shape [] came with router_logits of shape [5, 4]; give [5].",
        ),
        (
            {},
            LOGITS[0, 0],
            None,
            "router_logits of shape [4] came; give [..., experts], with at least one expert and one dimension of "
            "tokens.",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options, logits, mask, message):
    with pytest.raises(ValueError) as error:
        LoadBalancing(**options)(logits, mask)
    assert str(error.value) == f"load_balancing: {message}"
