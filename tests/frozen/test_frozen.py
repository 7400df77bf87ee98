"""Every frozen loss gives what it gave; a loss that joined later need not be frozen."""

import pytest
import torch

from lightning_losses.losses import KD, loss_classes
from tests.frozen.__main__ import compare
from tests.frozen.archive import Frozen, frozen_losses, read
from tests.frozen.outcomes import difference, outcome

# Another processor rounds otherwise, by up to 2e-11; to the bit is for the command line, on the one that froze.
TOLERANCES = {"float16": 1e-3, "float32": 1e-6}
# What the torch that froze drops; older ones (2.6) draw other units.
DROPPED = torch.tensor([0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 2.0, 2.0])


def tolerance(case):
    """The options say where a loss computes in less than float64."""
    return max((number for dtype, number in TOLERANCES.items() if dtype in case.options.values()), default=1e-10)


def test_every_loss_of_the_freeze_is_there():
    frozen = set(frozen_losses())
    assert len(frozen) >= 65
    assert frozen <= {loss.__name__ for loss in loss_classes()}


@pytest.mark.parametrize("name", frozen_losses())
def test_it_gives_what_is_frozen(name):
    frozen = read(name)
    assert len({case.name for case, _ in frozen}) == len(frozen)
    torch.manual_seed(0)
    if not torch.equal(torch.dropout(torch.ones(8), 0.5, train=True), DROPPED):
        frozen = [(case, came) for case, came in frozen if "dropout" not in case.options]
    apart = {case.name: (difference(outcome(name, case), came), tolerance(case)) for case, came in frozen}
    assert {case: number for case, (number, most) in apart.items() if not number <= most} == {}


def test_a_changed_number_is_noticed(monkeypatch, capsys):
    # What this processor gives, so that the comparison to the bit holds on any.
    here = [Frozen(case, outcome("KD", case)) for case, _ in read("KD")]
    monkeypatch.setattr("tests.frozen.__main__.read", lambda name: here)
    assert compare(["KD"]) == 0
    original = KD.forward
    monkeypatch.setattr(KD, "forward", lambda self, **given: original(self, **given) * (1 + 2**-50))
    assert compare(["KD"]) == 1
    assert "\n  none, " in capsys.readouterr().out


def test_each_part_of_an_outcome_is_compared():
    frozen = {case.name: came for case, came in read("MTARDBalance")}
    parts, refused = frozen["plain"], frozen["temperature_rate=-1.0, plain"]
    assert parts.keys() == {"value", "gradient of logits", "buffer first_losses", "buffer begun"}
    for key, tensor in parts.items():
        changed = ~tensor if tensor.dtype == torch.bool else tensor + 1e-9
        assert difference({**parts, key: changed}, parts) > 1e-12
        assert difference({k: v for k, v in parts.items() if k != key}, parts) > 1e-12
        assert difference({**parts, key: tensor.float()}, parts) > 1e-12 or tensor.dtype == torch.bool
    assert difference({"refusal": refused["refusal"].replace("least 0", "least 1")}, refused) == float("inf")
    assert difference(parts, refused) == float("inf")
    assert difference(parts, parts) == difference(refused, refused) == 0
