"""LightningCLI builds objectives of class paths: jsonargparse reads the annotations."""

import importlib
import inspect
import typing

import pytest
from lightning.pytorch import Callback
from torch import nn

from lightning_losses import NKD, CrossEntropy, Objective, Term
from lightning_losses.callbacks.monitors.hessian_spectrum import HessianSpectrum
from lightning_losses.callbacks.monitors.linear_mode_connectivity import LinearModeConnectivity
from lightning_losses.catalogue.parts import parts
from lightning_losses.losses import loss_classes
from lightning_losses.losses.adapted import Adapted
from lightning_losses.numerics.settings import settings
from lightning_losses.objective import Constant, Cosine, Linear, WarmUp

TERMS = {
    "ce": {"class_path": "lightning_losses.CrossEntropy"},
    "nkd": {
        "class_path": "lightning_losses.Term",
        "init_args": {
            "loss": {"class_path": "lightning_losses.NKD", "init_args": {"gamma": 2.0}},
            "weight": {"class_path": "lightning_losses.objective.WarmUp", "init_args": {"value": 0.5}},
        },
    },
}


@pytest.mark.parametrize("takes_loss", [Term, Adapted, HessianSpectrum, LinearModeConnectivity])
def test_a_loss_is_annotated_as_a_module_too(takes_loss):
    # Of an annotation that says Callable alone nothing is built.
    assert nn.Module in typing.get_args(typing.get_type_hints(takes_loss.__init__)["loss"])


def test_terms_are_annotated_as_modules_too():
    (_, terms) = typing.get_args(typing.get_type_hints(Objective.__init__)["terms"])
    assert nn.Module in typing.get_args(terms)


def test_an_objective_is_built_and_its_configuration_builds_it_again():
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--objective", type=Objective)
    objective = {"class_path": "lightning_losses.Objective", "init_args": {"terms": TERMS}}
    config = parser.parse_object({"objective": objective})
    again = parser.parse_string(parser.dump(config))
    for parsed in (config, again):
        objective = parser.instantiate(parsed).objective
        assert isinstance(objective.terms["ce"].loss, CrossEntropy)
        assert isinstance(objective.terms["nkd"].loss, NKD)
        assert objective.terms["nkd"].loss.gamma == 2.0
        assert isinstance(objective.terms["nkd"].weight, WarmUp)


def there_and_back(jsonargparse, base, path, arguments):
    """Build what a class path names, and again from what the parser writes of it."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--part", type=base)
    config = parser.parse_object({"part": {"class_path": path, "init_args": arguments}})
    built, again = (parser.instantiate(one).part for one in (config, parser.parse_string(parser.dump(config))))
    assert type(built) is type(again), path
    return again


# What has no default, as a file would give it. A continual task is a function of the program, which no file can name.
GIVEN = {"layers": ["0"], "folder": "runs", "path": "metrics.jsonl", "head": "head", "label": "a", "new_classes": 1,
         "co_occurrence": [[2, 1], [1, 2]], "max_value": 3}  # fmt: skip


def test_every_part_that_a_file_can_name_is_built_and_written_back():
    jsonargparse = pytest.importorskip("jsonargparse")
    paths = [
        (nn.Module, kind, {s.name: (GIVEN | {"layers": 2}).get(s.name, 2) for s in settings(kind) if s.required})
        for kind in loss_classes()
    ]
    for part in (*parts("callbacks"), *parts("calibrators")):
        kind = getattr(importlib.import_module(part.module), part.name)
        required = [
            name
            for name, each in inspect.signature(kind).parameters.items()
            if each.default is each.empty and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
        ]
        if set(required) <= set(GIVEN):
            base = Callback if issubclass(kind, Callback) else nn.Module
            paths.append((base, kind, {name: GIVEN[name] for name in required}))
    assert len(paths) > 65 + 12 + 30
    for base in (nn.Module, Callback):
        # All in one dictionary: a parser for each would take longer than the parsing.
        kinds = {kind.__name__: kind for its_base, kind, _ in paths if its_base is base}
        specs = {
            kind.__name__: {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": arguments}
            for its_base, kind, arguments in paths
            if its_base is base
        }
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_argument("--parts", type=dict[str, base])
        built = parser.instantiate(
            parser.parse_string(parser.dump(parser.parse_object({"parts": specs}), skip_validation=True))
        ).parts
        assert {name: type(part) for name, part in built.items()} == kinds


@pytest.mark.parametrize("schedule", [WarmUp(0.5), Constant(2.0), Linear(0.0, 1.0), Cosine(1.0, 0.0, until=0.5)])
def test_terms_of_any_schedule_are_written_back(schedule):
    jsonargparse = pytest.importorskip("jsonargparse")
    weight = {"class_path": f"lightning_losses.objective.{type(schedule).__name__}", "init_args": vars(schedule)}
    loss = {"class_path": "torch.nn.CrossEntropyLoss"}
    arguments = {"loss": loss, "weight": weight, "inputs": {"input": "logits"}}
    term = there_and_back(jsonargparse, nn.Module, "lightning_losses.Term", arguments)
    assert term.weight == schedule and term.needs == {"logits": True, "target": True}
