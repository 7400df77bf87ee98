"""What changes a teacher's output changes the key of its cache, and what can't be seen is refused."""

import enum
import functools
import threading

import pytest
import torch
from torch import nn

from lightning_losses.teachers import load_cached_teacher
from lightning_losses.teachers.cache_teacher import cache_teacher
from lightning_losses.teachers.feature_taps import FeatureTap
from lightning_losses.teachers.output_identity import OutputIdentity

SHIFT = 1.0


def shifted(values):
    return values + SHIFT


class Size(enum.Enum):
    SMALL = 1
    LARGE = 2


class Config:
    def __init__(self, scale):
        self.scale = scale


class Teacher(nn.Module):
    factor = 2.0

    def __init__(self, **attributes):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)
        self.register_buffer("mask", torch.zeros(3), persistent=False)
        self.scale, self.options, self.config = 1.0, {"power": 1, "sizes": [Size.SMALL]}, Config(1.0)
        self.after = functools.partial(torch.mul, other=1.0)
        self.inner = [nn.Linear(2, 2)]
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, inputs):
        return self.scale * shifted(self.layer(inputs)) + self.mask


def digest(teacher, identity=None):
    taken = OutputIdentity("cache_teacher", identity)
    taken.add("teacher", teacher)
    return taken.hexdigest()


CHANGES = {
    "a number": lambda t: setattr(t, "scale", 5.0),
    "the number's type": lambda t: setattr(t, "scale", 1),
    "a new attribute": lambda t: setattr(t, "extra", None),
    "within a container": lambda t: t.options["sizes"].append(Size.LARGE),
    "within an object": lambda t: setattr(t.config, "scale", 2.0),
    "within a partial": lambda t: setattr(t, "after", functools.partial(torch.mul, other=2.0)),
    "another function": lambda t: setattr(t, "after", functools.partial(torch.add, other=1.0)),
    "a buffer that isn't saved": lambda t: t.mask.fill_(1.0),
    "a weight": lambda t: t.layer.bias.data.add_(1.0),
    "the dtype": lambda t: t.double(),
    "a module in a list": lambda t: t.inner[0].weight.data.add_(1.0),
    "a hook": lambda t: t.layer.register_forward_hook(lambda part, given, output: 2 * output),
    "another hook": lambda t: t.layer.register_forward_pre_hook(lambda part, given: None),
    "the forward pass of an instance": lambda t: setattr(t.layer, "forward", lambda inputs: inputs),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_the_output_changes_the_key(change):
    teacher, same = Teacher(), Teacher()
    assert digest(teacher) == digest(same) == digest(teacher.train())
    CHANGES[change](teacher)
    assert digest(teacher) != digest(same)


def test_a_hook_of_ours_that_only_listens_changes_nothing():
    teacher = Teacher()
    before = digest(teacher)
    with FeatureTap(teacher, ["layer"]):
        teacher(torch.zeros(1, 4))
        assert digest(teacher) == before


def written(source):
    """A teacher of a project whose code is this."""
    names = {"__name__": "__main__", "nn": nn, "torch": torch}
    exec(source, names)
    return names["Teacher"]()


SOURCE = """
SHIFT = 1.0

def helper(values):
    return values + SHIFT

class Base(nn.Module):
    factor = 1.0

    def inner(self, values):
        return helper(values) * self.factor

class Teacher(Base):
    @property
    def power(self):
        return 2

    def forward(self, inputs):
        return self.inner(inputs) ** self.power
"""
EDITS = {
    "a global": ("SHIFT = 1.0", "SHIFT = 2.0"),
    "a function that it calls": ("values + SHIFT", "values - SHIFT"),
    "an attribute of its class": ("factor = 1.0", "factor = 3.0"),
    "a method that it inherits": ("* self.factor", "/ self.factor"),
    "a property": ("return 2", "return 3"),
    "its forward pass": ("self.inner(inputs)", "self.inner(-inputs)"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_the_code_counts(edit):
    before = digest(written(SOURCE))
    assert before == digest(written(SOURCE)) == digest(written("# A note moves all lines.\n\n" + SOURCE))
    assert digest(written(SOURCE.replace(*EDITS[edit]))) != before


def test_what_can_not_be_seen_is_refused_or_named():
    for unseen in (torch.Generator(), threading.Lock(), iter([1])):
        teacher = Teacher(drawn=unseen)
        with pytest.raises(
            ValueError, match=r"^cache_teacher: the key of the cache can't see what teacher.drawn, a .*;"
        ):
            digest(teacher)
        assert digest(teacher, "one") == digest(teacher, "one") != digest(teacher, "two")


def test_a_cached_teacher_answers_as_the_live_one_whatever_its_attributes(tmp_path):
    data = [{"inputs": torch.randn(4)} for _ in range(5)]
    inputs = torch.stack([sample["inputs"] for sample in data])
    paths = set()
    for scale in (1.0, 5.0):
        teacher = Teacher(scale=scale)
        path = cache_teacher(teacher, data, tmp_path)
        paths.add(path)
        torch.testing.assert_close(load_cached_teacher(path)(torch.arange(5)), teacher(inputs).detach())
    with torch.autocast("cpu", torch.bfloat16):
        paths.add(cache_teacher(teacher, data, tmp_path))
    assert len(paths) == 3


def test_objects_that_hold_each_other_come_to_an_end():
    teacher = Teacher()
    teacher.config.owner = teacher
    again = Teacher()
    again.config.owner = again
    assert digest(teacher) == digest(again) != digest(Teacher())
