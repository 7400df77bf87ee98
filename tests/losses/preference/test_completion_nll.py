import torch

from lightning_losses.losses import DPO, CompletionNLL
from lightning_losses.objective import Objective, Term
from tests.losses.preference.pairs import examples


def test_value_from_the_definition():
    values = examples(reference=False)
    logps, mask = values["chosen_logps"], values["chosen_mask"]
    tokens = [-logps[row, place] for row in range(4) for place in range(5) if mask[row, place]]
    torch.testing.assert_close(CompletionNLL()(logps, mask), torch.stack(tokens).mean())
    torch.testing.assert_close(CompletionNLL(reduction="sum")(logps, mask), torch.stack(tokens).sum())
    each = CompletionNLL(reduction="none")(logps, mask)
    assert each.shape == logps.shape and bool((each[mask == 0] == 0).all())


def test_batches_weighed_by_their_tokens_are_the_whole():
    values, loss = examples(reference=False), CompletionNLL()
    halves = [{name: values[name][part] for name in ("chosen_logps", "chosen_mask")} for part in ([0, 1], [2, 3])]
    counts = [loss.denominator(**half) for half in halves]
    assert counts == [5, 6]
    together = sum(count * loss(**half) for count, half in zip(counts, halves, strict=True)) / sum(counts)
    torch.testing.assert_close(together, loss(values["chosen_logps"], values["chosen_mask"]))


def test_beside_dpo_pairs_and_tokens_are_counted_apart():
    objective = Objective({"dpo": Term(DPO()), "nll": Term(CompletionNLL(), weight=0.5)})
    values = examples()
    value = objective(**values)
    total = getattr(value, "total", value)
    nll = CompletionNLL()(values["chosen_logps"], values["chosen_mask"])
    torch.testing.assert_close(torch.as_tensor(total), DPO()(**values) + 0.5 * nll)
    first = objective.terms["dpo"].count(values)
    assert (first.samples, objective.terms["nll"].count(values, [first]).samples) == (4, 11)


def test_nothing_to_say_is_0_and_the_impossible_finite():
    leaf = torch.full((2, 3), torch.nan, requires_grad=True)
    value = CompletionNLL()(leaf, torch.zeros(2, 3))
    assert value.item() == 0 and bool((torch.autograd.grad(value, leaf)[0] == 0).all())
    assert CompletionNLL()(torch.tensor([[-torch.inf, 0.0]])).item() == 50
