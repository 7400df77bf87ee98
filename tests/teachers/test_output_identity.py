"""What changes a teacher's output changes the key of its cache, and what can't be seen is refused."""

import collections
import copy
import enum
import functools
import os
import random
import re
import sys
import threading
import types

import numpy as np
import pytest
import timm
import torch
import torchvision
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


def decorated(factor):
    def times(function):
        @functools.wraps(function)
        def wrapper(*arguments):
            return factor * function(*arguments)

        return wrapper

    return times


def decorated_torch(factor):
    @functools.wraps(torch.relu)
    def wrapper(values):
        return factor * torch.relu(values)

    return wrapper


def counting(value):
    total = 0

    def forward(values):
        nonlocal total
        return values + total

    def advance():
        nonlocal total
        total += value

    advance()
    return forward


def overloaded(value):
    @functools.singledispatch
    def scaled(values):
        return values

    scaled.register(torch.Tensor)(decorated(value)(shifted))
    return scaled


class Described(Config):
    def __repr__(self):
        return "Described"


class Slotted:
    __slots__ = ("__scale", "shift")

    def __init__(self, scale):
        self.__scale = scale


class Marked(list):
    pass


class Angle(float):
    def __repr__(self):
        return "an angle"


class Sized(enum.Enum):
    def __init__(self, scale, name):
        self.scale = scale

    ONE = (1, "a")


class Layer(nn.Linear):
    pass


def with_attribute(thing, value):
    thing.scale = value
    return thing


def with_hook(hook, **options):
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data.fill_(1.0)
    layer.register_forward_hook(hook, **options)
    return layer


def keywords_or_not(part, given, output, more=None):
    return output


def member(value):
    names = {"__name__": "__main__", "enum": enum}
    exec(f"class Size(enum.Enum):\n    SMALL = {value}", names)
    return names["Size"].SMALL


def class_with(value):
    return type("Held", (Config,), {"held": value})(1.0)


def exec_function(value):
    names = {"__name__": "__main__"}
    exec(f"def inner(*values):\n    return values\n\ndef function(x, *, scale={value}):\n    return inner(x)", names)
    return names["function"]


def parametrized(value):
    class Scale(nn.Module):
        def forward(self, weight):
            return value * weight

    layer = with_attribute(nn.Linear(2, 2), 1)
    layer.weight.data.fill_(1.0), layer.bias.data.fill_(0.0)
    return nn.utils.parametrize.register_parametrization(layer, "weight", Scale())


def module_in_list(value):
    return [nn.Dropout(0.5).train(value == 1)]


# What a teacher may hold, for a value of 1 and of 2.
HELD = {
    "a decorator's closure": lambda v: decorated(v)(shifted),
    "a decorator of an installed function": decorated_torch,
    "a decorator of torch's around it": lambda v: torch.no_grad()(decorated(v)(shifted)),
    "a cached function": lambda v: functools.lru_cache(decorated(v)(shifted)),
    "what a nonlocal name became": counting,
    "an attribute of a function": lambda v: with_attribute(decorated(1)(shifted), v),
    "a default by name": exec_function,
    "a single dispatch": overloaded,
    "the method of another object": lambda v: Config(v).__init__,
    "a built-in method of another object": lambda v: torch.tensor(float(v)).mul,
    "a slot's wrapper": lambda v: float(v).__mul__,
    "a private slot": Slotted,
    "a precision around it": lambda v: torch.autocast("cpu", enabled=v == 1)(shifted),
    "a class's array": lambda v: class_with(np.full(2, v)),
    "a class's namespace": lambda v: class_with(types.SimpleNamespace(scale=v)),
    "a class's set": lambda v: class_with({v}),
    "a class's callable": lambda v: class_with(functools.partial(torch.mul, other=v)),
    "a class's partial method": lambda v: class_with(functools.partialmethod(shifted, v)),
    "a class's cached property": lambda v: class_with(functools.cached_property(decorated(v)(shifted))),
    "a class's property": lambda v: class_with(property(decorated(v)(shifted))),
    "a class's descriptor": lambda v: class_with(classmethod(decorated(v)(shifted))),
    "a class within a class": lambda v: class_with(type("Inner", (), {"scale": v})),
    "a metaclass": lambda v: type("Meta", (type,), {"scale": v})("Held", (), {})(),
    "a member's value": member,
    "a set of objects": lambda v: {Described(v)},
    "a set of functions": lambda v: {decorated(v)(shifted)},
    "a default of a dictionary": lambda v: collections.defaultdict(decorated(v)(dict)),
    "a queue's length": lambda v: collections.deque([1], maxlen=v),
    "a list with an attribute": lambda v: with_attribute(Marked([1]), v),
    "a number with another name": Angle,
    "a pattern": lambda v: re.compile(f"a{{{v}}}"),
    "a slice of tensors": lambda v: slice(torch.full((2000,), 1.0).index_fill(0, torch.tensor(1000), v)),
    "a masked array": lambda v: np.ma.masked_array([1.0, 2.0], mask=[v == 1, False]),
    "a sparse tensor": lambda v: torch.eye(2).mul(v).to_sparse(),
    "a conjugated tensor": lambda v: torch.tensor([1 + v * 1j]).conj(),
    "a tensor with an attribute": lambda v: with_attribute(torch.zeros(1), v),
    "a hook's closure": lambda v: with_hook(lambda part, given, output: v * output),
    "a hook's arguments": lambda v: with_hook(keywords_or_not, with_kwargs=v == 1),
    "a parametrization": parametrized,
    "a module's mode in a list": module_in_list,
}


@pytest.mark.parametrize("held", HELD)
def test_whatever_a_teacher_holds_counts(held):
    one, again, two = (digest(Teacher(held=HELD[held](value))) for value in (1, 1, 2))
    assert one == again != two


def test_a_pass_changes_nothing():
    teacher = Teacher(drawn=torch.autocast("cpu")(functools.lru_cache(decorated(1)(overloaded(1)))))
    before = digest(teacher)
    teacher.drawn(torch.zeros(3))
    assert digest(teacher) == before


def test_the_modules_of_a_project_count_however_they_are_imported(tmp_path, monkeypatch):
    package = tmp_path / "a_project"
    (package / "parts").mkdir(parents=True)
    (package / "__init__.py").write_text("import a_project.parts.scale\n")
    (package / "parts" / "__init__.py").touch()
    (package / "parts" / "scale.py").write_text("SCALE = 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for code in (
        "import a_project\n\ndef after(x):\n    return a_project.parts.scale.SCALE * x",
        "def after(x):\n    import a_project.parts.scale\n\n    return a_project.parts.scale.SCALE * x",
        "def after(x):\n    from a_project.parts.scale import SCALE\n\n    return SCALE * x",
        "__package__ = 'a_project.parts'\n\ndef after(x):\n    from . import scale\n\n    return scale.SCALE * x",
    ):
        names = {"__name__": "__main__"}
        exec(code, names)
        before = digest(Teacher(after=names["after"]))
        sys.modules["a_project.parts.scale"].SCALE = 2.0
        assert digest(Teacher(after=names["after"])) != before, code
        sys.modules["a_project.parts.scale"].SCALE = 1.0
        assert digest(Teacher(after=names["after"])) == before


def test_a_hook_on_every_module_counts():
    before = digest(Teacher())
    handle = nn.modules.module.register_module_forward_hook(lambda part, given, output: output)
    assert digest(Teacher()) != before
    handle.remove()
    assert digest(Teacher()) == before


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
    for unseen in (
        *(torch.Generator(), threading.Lock(), iter([1]), (one for one in [1]), random.Random(1)),
        *(eval("lambda name: globals()[name]"), torch.jit.ScriptModule()),
        *(np.array([object()]), torch.zeros(1, device="meta"), np.random.default_rng(0)),
    ):
        teacher = Teacher(drawn=unseen)
        with pytest.raises(
            ValueError, match=r"^cache_teacher: the key of the cache can't see what teacher.drawn.*, a .*;"
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


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([[0, 1], 2], [0, [1], 2]),
        ([[0, 1], [2]], [[[0, 1], 2]]),
        ([(0, 1), 2], [0, (1,), 2]),
        ([{0: 1}, 2], [{0: 1, 2: 2}]),
        ([slice(1, 2, 3)], [[1, 2, 3]]),
        ([frozenset([1]), 2], [frozenset([1, 2])]),
        ([b"1", "1"], ["1", b"1"]),
        ([np.zeros(1, "f4")], [np.float32(0)]),
        ([functools.partial(max, 1), 2], [functools.partial(max, 1, 2)]),
        ([Config([1]), 2], [Config([1, 2])]),
    ],
    ids=lambda value: type(value[0]).__name__,
)
def test_where_a_container_begins_and_ends_counts(one, other):
    assert digest(one) == digest(copy.deepcopy(one)) != digest(other)


OPERATIONS = "SCALE = 1.0\n\ndef act(x):\n    return SCALE * x\n"
READS = {
    "getattr(operations, name)(x)": "names none of its attributes",
    "getattr(operations, 'a' + 'ct'[:])(x)": "names none of its attributes",
    "vars(operations)['act'](x)": "names none of its attributes",
    "operations.__dict__['act'](x)": "names none of its attributes",
    "(lambda: getattr(operations, name))()(x)": "names none of its attributes",
    "(kept := operations, getattr(kept, name))[1](x)": "names none of its attributes",
    "x * float(os.environ['SCALE'])": r"os\.environ",
    "x * float(os.getenv('SCALE'))": r"os\.getenv",
    "x * float(environ['SCALE'])": r"os\.environ",
    "sys.modules['operations'].act(x)": r"sys\.modules",
    "importlib.import_module('operations').act(x)": "import_module",
    "import_module('operations').act(x)": "import_module",
}


@pytest.fixture
def operations(monkeypatch):
    module = types.ModuleType("operations")
    exec(OPERATIONS, vars(module))
    monkeypatch.setitem(sys.modules, "operations", module)
    return module


def reading(expression):
    imports = "import importlib, operations, os, sys\nfrom importlib import import_module\nfrom os import environ\n"
    names = {"__name__": "__main__"}
    exec(f"{imports}def after(x, name='act'):\n    return {expression}", names)
    return names["after"]


@pytest.mark.parametrize("expression", READS)
def test_what_code_reads_by_a_string_is_refused(operations, expression):
    teacher = Teacher(after=reading(expression))
    with pytest.raises(
        ValueError, match=rf"can't see what .*, a function, holds by .*{READS[expression]}.*; give ident"
    ):
        digest(teacher)
    assert digest(teacher, "one") != digest(teacher, "two")


@pytest.mark.parametrize("expression", ["getattr(operations, 'act')(x)", "operations.act(getattr(x, name, x))"])
def test_what_code_reads_of_a_module_by_its_name_counts(operations, expression):
    before = digest(Teacher(after=reading(expression)))
    operations.SCALE = 2.0
    assert digest(Teacher(after=reading(expression))) != before


def test_a_module_that_is_held_is_refused(operations):
    for held in (operations, os.environ):
        with pytest.raises(ValueError, match="can't see what teacher.held"):
            digest(Teacher(held=held))


class ByNumber(torchvision.models.ResNet):
    """Takes its own layers by a computed name, as many networks do."""

    def forward(self, inputs):
        return [getattr(self, f"layer{number}") for number in range(1, 5)] and super().forward(inputs)


def test_a_network_may_take_its_own_layers_by_a_computed_name():
    def network():
        torch.manual_seed(0)
        return ByNumber(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])

    changed = network()
    changed.layer4[0].bn2.bias.data.add_(1.0)
    assert digest(network()) == digest(network()) != digest(changed)
    named = nn.Sequential(timm.create_model("test_resnet", pretrained=False))
    assert digest(named) == digest(copy.deepcopy(named))


def test_what_is_put_on_a_compiled_network_counts():
    teacher = Teacher()
    plain, compiled = digest(teacher), torch.compile(teacher)
    assert digest(compiled) == plain
    compiled.register_forward_hook(lambda part, given, output: 2 * output)
    hooked = digest(compiled)
    compiled.forward = lambda inputs: inputs
    assert len({plain, hooked, digest(compiled)}) == 3
