"""The ranges of settings are written once, as annotations; what is said of them elsewhere agrees."""

import inspect
import re
from dataclasses import field

import pytest
import torch

from lightning_losses.losses import NKD, loss_classes
from lightning_losses.losses.base import Loss
from lightning_losses.losses.kinds import RowLoss
from lightning_losses.numerics.settings import Bound, Count, Share, Temperature, Weight, settings

BOUNDED = [
    pytest.param(loss, setting, id=f"{loss.identifier()}-{setting.name}")
    for loss in loss_classes()
    for setting in settings(loss)
    if str(setting.bound) and setting.name not in ("ignore_index", "reduction")
]


class Everything(RowLoss):
    share: Share
    count: Count = 3
    weight: Weight | None = None
    temperature: Temperature = 1.0
    squared: bool = False
    free: object = None
    owned: torch.Tensor = field(init=False)

    def __post_init__(self):
        super().__post_init__()
        self.register_buffer("owned", torch.zeros(self.count))

    def forward(self, logits):
        return self.share * logits.sum()


def test_fields_become_a_constructor():
    loss = Everything(0.5, weight=2)
    assert (loss.share, loss.count, loss.weight, loss.reduction, loss.ignore_index) == (0.5, 3, 2, "mean", -100)
    assert repr(loss).startswith("Everything(share=0.5, count=3, weight=2, temperature=1.0, squared=False, free=None,")
    assert list(loss.state_dict()) == ["owned"] and loss.inputs() == {"logits": True}
    with pytest.raises(TypeError, match="share"):
        Everything()
    with pytest.raises(TypeError, match="positional"):
        Everything(0.5, 3, None, 1.0, False, None, -100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.5}, "share=1.5 came; give a number at least 0 and at most 1."),
        ({"share": float("nan")}, "share=nan came; give a number at least 0 and at most 1."),
        ({"share": True}, "share=True came; give a number at least 0 and at most 1."),
        ({"count": 2.0}, "count=2.0 came; give a whole number of at least 1."),
        ({"weight": -1}, "weight=-1 came; give a number at least 0."),
        ({"temperature": "4"}, "temperature='4' came; give a number above 0 and at most 1e+09."),
        ({"squared": 1}, "squared=1 came; give True or False."),
        ({"reduction": "average"}, "reduction='average' came; choose one of 'mean', 'sum', 'none'."),
        ({"ignore_index": None}, "ignore_index=None came; give a whole number."),
    ],
)
def test_what_does_not_fit_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=f"^everything: {re.escape(message)}$"):
        Everything(**{"share": 0.5, **options})


def test_a_constructor_of_its_own_still_works():
    class Mine(Loss):
        def __init__(self, scale):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(float(scale)))

        def forward(self, logits):
            return self.scale * logits.sum()

    assert Mine(2)(torch.ones(3)).item() == 6 and Mine.identifier() == "mine"


def test_settings_are_read_from_annotations():
    gamma, _, ignore_index, reduction, shared_support = settings(NKD)
    assert (gamma.kind, gamma.bound, gamma.default, gamma.optional) == (float, Bound(least=0), 1.5, False)
    assert reduction.choices == ("mean", "sum", "none") and ignore_index.kind is int
    assert shared_support.kind is bool and shared_support.default is False
    assert [each.name for each in settings(NKD)] == list(inspect.signature(NKD).parameters)


@pytest.mark.parametrize(("loss", "setting"), BOUNDED)
def test_the_documentation_names_the_ends_of_a_range(loss, setting):
    # What a loss shares with its kind is told there.
    arguments = [(inspect.getdoc(kind) or "").partition("\nArgs:\n")[2].partition("\n\n")[0] for kind in loss.__mro__]
    pattern = re.compile(rf"^    {setting.name}: (.*?)(?=^    \w+: |\Z)", re.MULTILINE | re.DOTALL)
    said = next(told[1] for each in arguments if (told := pattern.search(each)))
    # Beyond 1e9 no temperature means anything, and no seed is lacking; nobody needs to be told.
    bound = setting.bound
    ends = [end for end in (bound.above, bound.least, bound.most, bound.below) if end is not None and end < 1e9]
    assert all(re.search(rf"(?<![\d.]){end:g}(?![\d]|\.\d)", said) for end in ends), said
