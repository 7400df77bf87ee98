import pytest
import torch
import torch.nn.functional as F

from lightning_losses.kernels.token_record import TokenRecord, token_record

pytestmark = pytest.mark.kernels
EVERYTHING = {"entropies": True, "log_collisions": True, "variances": True, "ranks": True}


def text(tokens=(3, 6), width=5, vocabulary=11, bias=False):
    generator = torch.Generator().manual_seed(7)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden, weight = normal(*tokens, width), normal(vocabulary, width)
    target = torch.randint(vocabulary, tokens, generator=generator)
    target[..., ::4] = -100
    return hidden, weight, target, normal(vocabulary) if bias else None


def definition(hidden, weight, target, bias=None, temperature=1.0, softcap=None):
    """The statistics as written down, of all logits."""
    scores = hidden @ weight.T + (0 if bias is None else bias)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    log_p = F.log_softmax(scores / temperature, dim=-1)
    p, kept = log_p.exp(), target != -100
    own = log_p.gather(-1, target.clamp(min=0).unsqueeze(-1))
    mean = (p * log_p).sum(dim=-1)
    values = {
        "logps": own.squeeze(-1),
        "entropies": -mean,
        "log_collisions": p.square().sum(dim=-1).log(),
        "variances": (p * log_p.square()).sum(dim=-1) - mean.square(),
        "ranks": (log_p > own).sum(dim=-1),
    }
    return {name: torch.where(kept, value, 0) for name, value in values.items()} | {"kept": kept}


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "softcap": 3.0}], ids=["plain", "tempered"])
def test_the_record_is_what_all_logits_give(trained, chunk, options):
    hidden, weight, target, bias = text(bias=not options)
    hidden.requires_grad_(trained)
    record = token_record(hidden, weight, target, bias, chunk=chunk, **EVERYTHING, **options)
    for name, expected in definition(hidden, weight, target, bias, **options).items():
        torch.testing.assert_close(getattr(record, name), expected, msg=name)
    assert record.logps.requires_grad == record.entropies.requires_grad == trained
    constant = (record.log_collisions, record.variances, record.ranks)
    assert not any(values.requires_grad for values in constant)


@pytest.mark.parametrize("impl", ["auto", "recompute", "reference"])
def test_gradients_flow_through_log_probabilities_and_entropies(impl):
    hidden, weight, target, _ = text()
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    factor = torch.linspace(-1, 2, target.numel(), dtype=torch.float64).view(target.shape)
    expected = definition(*leaves, target)
    wanted = torch.autograd.grad((factor * (expected["logps"] + 0.3 * expected["entropies"])).sum(), leaves)
    record = token_record(*leaves, target, entropies=True, impl=impl)
    found = torch.autograd.grad((factor * (record.logps + 0.3 * record.entropies)).sum(), leaves)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("trained", [True, False])
def test_a_token_that_does_not_count_may_hold_anything(trained):
    hidden, weight, target, _ = text()
    clean = token_record(hidden, weight, target, **EVERYTHING)
    hidden[target == -100] = torch.nan
    leaf = hidden.clone().requires_grad_(trained)
    record = token_record(leaf, weight, target, **EVERYTHING)
    torch.testing.assert_close([*record], [*clean])
    if trained:
        (gradient,) = torch.autograd.grad(record.logps.sum(), leaf)
        assert (gradient[target == -100] == 0).all() and gradient.isfinite().all()


def test_a_packed_text_sums_to_its_documents():
    hidden, weight, target, _ = text(tokens=(1, 9))
    target[:] = target.abs() % 11
    target[0, 4] = -100  # the first document's last token has no successor
    together = token_record(hidden, weight, target).logps
    parts = [token_record(hidden[:, cut], weight, target[:, cut]).logps.sum() for cut in (slice(0, 4), slice(5, 9))]
    torch.testing.assert_close(together.sum(), sum(parts))


def test_the_shift_is_done_once():
    hidden, weight, target, _ = text()
    record = token_record(hidden, weight, target, shift=True)
    expected = token_record(hidden[:, :-1], weight, target[:, 1:])
    torch.testing.assert_close(record.logps, expected.logps)
    torch.testing.assert_close(record.kept, expected.kept)


def test_masked_entries_of_the_vocabulary_have_no_part():
    hidden, weight, target, _ = text()
    target[:] = target.abs() % 5
    bias = torch.zeros(11, dtype=torch.float64)
    bias[5:] = -torch.inf
    record = token_record(hidden, weight, target, bias, **EVERYTHING)
    expected = token_record(hidden, weight[:5], target, **EVERYTHING)
    torch.testing.assert_close([*record], [*expected])


def test_what_was_not_asked_for_is_none():
    hidden, weight, target, _ = text()
    record = token_record(hidden, weight, target)
    assert isinstance(record, TokenRecord)
    assert (record.entropies, record.log_collisions, record.variances, record.ranks) == (None,) * 4


def test_no_token_at_all():
    hidden, weight, target, _ = text(tokens=(2, 0))
    assert token_record(hidden, weight, target, **EVERYTHING).logps.shape == (2, 0)


def test_half_precision_records_in_float32():
    hidden, weight, target, _ = text()
    record = token_record(hidden.bfloat16(), weight.bfloat16(), target, **EVERYTHING)
    exact = definition(hidden.bfloat16().double(), weight.bfloat16().double(), target)
    assert record.logps.dtype == torch.float32
    torch.testing.assert_close(record.logps.double(), exact["logps"], atol=0.1, rtol=0.02)


def test_refusals():
    hidden, weight, target, _ = text()
    with pytest.raises(ValueError, match=r"token_record: target .* give int64 token ids"):
        token_record(hidden, weight, target.int())
    with pytest.raises(ValueError, match="token_record: temperature"):
        token_record(hidden, weight, target, temperature=0.0)
