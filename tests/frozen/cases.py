"""Which cases of a loss are frozen: each option one at a time, each kind of input, and the states it can be in."""

import inspect
import itertools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lightning_losses.losses.base import Loss
from tests.frozen.options import GIVEN, VALUES
from tests.frozen.outcomes import Case, built, own_parameters, revived
from tests.losses.examples import BATCH, CLASSES, FEATURES, tensors


def normal(*shape: int, seed: str) -> Tensor:
    """Normal numbers in float64, the same for the same words."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(zlib.crc32(seed.encode())))


def maps(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Layers of these shapes."""
    return {name: normal(BATCH, *shape, seed=f"{name} {shape}") for name, shape in shapes.items()}


def _layers(student: tuple[int, ...], teacher: tuple[int, ...]) -> dict[str, Tensor]:
    return maps(feature_maps=student, teacher_feature_maps=teacher)


_EARLY, _LATE = (3, 4, 4), (2, 2, 2)
_TWO_LAYERS = {
    "feature_maps": maps(early=_EARLY, late=_LATE),
    "teacher_feature_maps": maps(early=(4, 4, 4), late=(3, 2, 2)),
}
_TWO_TEACHERS = {"robust": 2 * normal(BATCH, CLASSES, seed="robust"), "clean": normal(BATCH, CLASSES, seed="clean")}
_TWO_VIEWS = {"robust": normal(BATCH, CLASSES, seed="view"), "clean": 2 * normal(BATCH, CLASSES, seed="other view")}
_FEWER = {"teacher_logits": 2 * normal(BATCH, CLASSES - 2, seed="fewer classes")}
_PAIRS = {"policy": "map", "student_classes": [4, 0, 2], "teacher_classes": [0, 2, 1]}

_CONFIDENCE = [normal(40, seed=f"confidence {n}").sigmoid() for n in range(2)]
_CORRECT = [(normal(40, seed=f"correct {n}") > -0.3).double() for n in range(2)]
_RENEWED = [
    ["renew", {"confidence": confidence, "correct": correct}]
    for confidence, correct in zip(_CONFIDENCE, _CORRECT, strict=True)
]

# Two completions of each prompt.
_SAMPLES = {name: normal(2 * BATCH, 3, seed=name) - 2 for name in ("logps", "ref_logps")} | {"completion_mask": None}

# What only this loss takes: a name, options, and inputs in place of the example's.
SPECIAL: dict[str, list[tuple[str, dict[str, Any], dict[str, Any]]]] = {
    "AdaFocal": [("renewed often", {"rate": 9.0, "least": least, "num_bins": 4}, {}) for least in (-2.0, -0.3)],
    "AlignedVocabulary": [
        ("fewer classes", {}, _FEWER),
        ("fewer classes, truncated", {"policy": "truncate"}, _FEWER),
        ("fewer classes, mapped", _PAIRS, _FEWER),
        ("fewer classes, mapped, nkd", {**_PAIRS, "loss": {"loss": "NKD", "options": {}}}, _FEWER),
        ("lists of unlike lengths", {**_PAIRS, "teacher_classes": [0]}, _FEWER),
        ("a class that is not there", {**_PAIRS, "teacher_classes": [0, 1, 3]}, _FEWER),
    ],
    "AttentionTransfer": [
        ("layers", {"mode": mode, "reduction": reduction}, _TWO_LAYERS)
        for mode in ("code", "paper")
        for reduction in ("mean", "sum", "none")
    ]
    + [("a smaller map", {"mode": mode}, _layers((3, 4, 4), (2, 2, 2))) for mode in ("code", "paper")],
    "ClassRelationKD": [("fewer classes", {}, _FEWER)],
    "DACKL": [("bounds and none", {"bounds": [0.3, 0.9], "reduction": "none"}, {})],
    "DeiTDistill": [
        (f"{kind}, {normalizer}, {reduction}", {"kind": kind, "normalizer": normalizer, "reduction": reduction}, {})
        for kind in ("hard", "soft")
        for normalizer in ("classes", "batch")
        for reduction in ("mean", "sum", "none")
    ],
    "FitNetHint": [
        ("a map twice as large", {}, _layers((3, 4, 4), (2, 2, 2))),
        ("a map half as large", {}, _layers((3, 2, 2), (2, 4, 4))),
        ("a map a little larger", {}, _layers((3, 5, 4), (2, 4, 3))),
        ("a map a little smaller", {}, _layers((3, 3, 3), (2, 4, 4))),
        ("tokens", {}, _layers((2, 3), (2, 4))),
        ("vectors", {}, _layers((3,), (4,))),
        (
            "the same shape, compared as it is",
            {"regressor": {"layer": "Identity", "arguments": []}},
            _layers((3,), (3,)),
        ),
        ("layers", {"layers": 2}, _TWO_LAYERS),
        ("too few layers", {"layers": 3}, _TWO_LAYERS),
        ("a regressor beside layers", {"layers": 2, "regressor": {"layer": "Identity", "arguments": []}}, _TWO_LAYERS),
    ],
    "MTARDBalance": [
        (f"two teachers, {who}", {"num_teachers": 2, **options}, {"teacher_logits": _TWO_TEACHERS, **logits})
        for who, logits in (("one input", {}), ("an input each", {"logits": _TWO_VIEWS}))
        for options in (
            {},
            {"weight_rate": 0.5},
            {"temperature_rate": 0.5},
            {"temperature_rate": 0.5, "least_temperature": 2.0},
            {"temperature_rate": 20.0, "most_temperature": 3.0},
        )
    ],
    "NDLoss": [
        (f"a projector, {reduction}", {"reduction": reduction, "dropout": dropout}, maps(teacher_features=(3,)))
        for reduction, dropout in (("mean", 0.5), ("sum", 0.0), ("none", 0.2))
    ],
    "OFAStages": [
        ("tokens", {"kind": "tokens"}, maps(feature_maps=(3, 4))),
        ("vectors", {"kind": "vectors"}, maps(feature_maps=(4,))),
        ("stages", {"stages": 2}, {"feature_maps": maps(early=(3, 8, 8), late=_LATE)}),
        ("stages, none", {"stages": 2, "reduction": "none"}, {"feature_maps": maps(early=(3, 8, 8), late=_LATE)}),
    ],
    "PAMC": [
        (
            "three nodes",
            {},
            {
                "embeddings": normal(3, FEATURES, seed="nodes"),
                "target": torch.tensor([2, 0, 2]),
                "adjacency": normal(3, 3, seed="edges").abs().triu(1),
            },
        ),
        ("no edges", {}, {"adjacency": torch.zeros(BATCH, BATCH, dtype=torch.float32)}),
    ],
    "PSKD": [(f"epoch_progress={progress}", {}, {"epoch_progress": progress}) for progress in (0.0, 1.0, 2.0)],
    **{
        name: [(f"two samples, {reduction}", {"reduction": reduction}, _SAMPLES) for reduction in ("mean", "none")]
        for name in ("D2O", "HyPO")
    },
    "SpanCorrelation": [
        ("tokens in no span", {}, {"spans": torch.tensor([0, 0, -1, -1, 2, 2])}),
        ("no pair", {}, {"spans": torch.arange(BATCH)}),
    ],
    "WDR": [
        ("layers", {}, {"weights": maps(first=(4,), second=(2, 3))}),
        ("equal weights", {}, {"weights": torch.full((3, 2), 0.3, dtype=torch.float64)}),
        ("no layers", {}, {"weights": {}}),
    ],
}

# The states that a loss can be in beside the one it begins with, made by calls or by setting a buffer.
STATES: dict[str, dict[str, list[list[Any]]]] = {
    "AdaFocal": {
        "renewed": _RENEWED[:1],
        "renewed twice": _RENEWED,
    },
    "DINOLoss": {
        "centred": [
            [
                "after_step",
                {name: normal(BATCH, FEATURES, seed=name) for name in ("target_embeddings", "target_embeddings_b")},
            ]
        ]
    },
    "FDPG": {
        "second step": [
            ["after_step", {"logps": normal(4, 3, seed="logps"), "target_log_scores": normal(4, seed="log P")}],
        ]
    },
    "MCMI": {"centroids": [["centroids", normal(CLASSES, CLASSES, seed="centroids").softmax(dim=-1)]]},
    "MTARDBalance": {
        "begun": [
            [
                "forward",
                {name: 2 * normal(BATCH, CLASSES, seed=f"first {name}") for name in ("logits", "teacher_logits")},
            ]
        ]
    },
    "NDLoss": {"class means": [["set_class_means", {"class_means": normal(CLASSES, FEATURES, seed="class means")}]]},
}
# The steps of special cases, by how their name begins.
SPECIAL_STEPS: dict[str, list[list[Any]]] = {
    "a projector": [["set_class_means", {"class_means": normal(CLASSES, 3, seed="class means of a projector")}]],
    "renewed often": _RENEWED * 5,
    "two teachers": [["forward", {"logits": normal(BATCH, CLASSES, seed="first"), "teacher_logits": _TWO_TEACHERS}]],
}


# ---- kinds of inputs; each gives None where it says nothing of a loss

Inputs = dict[str, Any]
_CLASS_WISE = ("past_probabilities", "mixup_target")


def _rows(values: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    return {k: change(v) if isinstance(v, Tensor) and v.shape[:1] == (BATCH,) else v for k, v in values.items()}


def _ignored(values: Inputs, which: list[int] | slice, ignore_index: int | None) -> Inputs | None:
    if "target" not in values or ignore_index is None or values["target"].is_floating_point():
        return None
    target = values["target"].clone()
    target[which] = ignore_index
    return {**values, "target": target}


def _soft(values: Inputs, _: int | None) -> Inputs | None:
    if "target" not in values:
        return None
    return {**values, "target": normal(BATCH, CLASSES, seed="soft target").softmax(dim=-1)}


def _masked(values: Inputs, **classes: int) -> Inputs | None:
    """The example with one class masked in these scores; what the past or a mixture believed of it is nothing."""
    if not classes.keys() <= values.keys():
        return None
    masked = dict(values)
    for name, index in classes.items():
        masked[name] = values[name].clone()
        masked[name][..., index] = -torch.inf
    if "target" in values:
        masked["target"] = values["target"].clamp(min=2)
    if "multi_hot" in values:
        masked["multi_hot"] = values["multi_hot"].index_fill(-1, torch.tensor([0, 1]), 0.0)
    for name in _CLASS_WISE:
        if name in values:
            masked[name] = values[name].clone()
            masked[name][..., classes.get("logits", 0)] = 0
            masked[name] /= masked[name].sum(dim=-1, keepdim=True)
    return masked


def _sequences(values: Inputs, _: int | None) -> Inputs | None:
    if "logits" not in values:
        return None
    return _rows(values, lambda tensor: tensor.reshape(2, BATCH // 2, *tensor.shape[1:]))


def _hard(values: Inputs, ignore_index: int | None) -> Inputs | None:
    scores = [name for name in ("logits", "teacher_logits") if name in values]
    masked = _masked(values, **dict.fromkeys(scores, 0)) if "logits" in values else values
    assert masked is not None
    masked = _ignored(masked, [1, 4], ignore_index) or masked
    hard = _sequences(masked, None) or masked if "features" not in values and "index" not in values else masked
    return None if hard is values else hard


KINDS: dict[str, Callable[[Inputs, int | None], Inputs | None]] = {
    "plain": lambda values, _: values,
    "ignored": lambda values, ignore_index: _ignored(values, [1, 4], ignore_index),
    "all ignored": lambda values, ignore_index: _ignored(values, slice(None), ignore_index),
    "soft target": _soft,
    "sequences": _sequences,
    "masked in the student": lambda values, _: _masked(values, logits=0),
    "masked in the teacher": lambda values, _: _masked(values, teacher_logits=0),
    "masked in both": lambda values, _: _masked(values, logits=0, teacher_logits=0),
    "masked apart": lambda values, _: _masked(values, logits=0, teacher_logits=1),
    "hard": _hard,
    "the teacher's own": lambda values, _: (
        {**values, "logits": values["teacher_logits"]} if {"logits", "teacher_logits"} <= values.keys() else None
    ),
    "one sample": lambda values, _: _rows(values, lambda tensor: tensor[:1]),
    "no sample": lambda values, _: _rows(values, lambda tensor: tensor[:0]),
}


def cases(loss: type[Loss]) -> Iterator[Case]:
    """All cases of a loss, with its own parameters as they were drawn; options that are refused come once."""
    refused: list[str] = []
    for case in all_cases(loss):
        try:
            revived({"loss": loss.__name__, "options": case.options})
        except ValueError:
            # As text, where NaN is equal to itself.
            if str(case.options) in refused:
                continue
            refused.append(str(case.options))
        try:
            parameters = {key: value.detach() for key, value in own_parameters(built(loss.__name__, case)).items()}
        except ValueError:  # the outcome is a refusal
            parameters = {}
        yield case._replace(parameters=parameters)


def all_cases(loss: type[Loss]) -> Iterator[Case]:
    """All of them, refused ones as often as they come, without the loss's own parameters."""
    name, given = loss.__name__, GIVEN.get(loss.__name__, {})
    named = {key: p for key, p in inspect.signature(loss).parameters.items() if p.kind is not p.VAR_KEYWORD}
    options = [key for key, p in named.items() if p.kind is not p.VAR_POSITIONAL]
    if unknown := set(options) - VALUES.keys():
        raise KeyError(f"{name} has the options {', '.join(sorted(unknown))}; give some values of each in VALUES.")
    example = tensors(loss)
    ignore_index = -100 if "target" in example else None
    reductions: list[Any] = VALUES["reduction"][:3] if "reduction" in options else [None]
    states = {"": [], **{f", {state}": steps for state, steps in STATES.get(name, {}).items()}}

    for state, steps in states.items():
        for reduction in reductions:
            chosen = given if reduction is None else {**given, "reduction": reduction}
            prefix = f"{'' if reduction is None else f'{reduction}, '}"
            for kind, change in KINDS.items():
                if (inputs := change(example, ignore_index)) is not None:
                    yield Case(f"{prefix}{kind}{state}", chosen, inputs, steps)
            optional = [key for key, required in loss.inputs().items() if not required]
            for without in [[key] for key in optional] + ([optional] if len(optional) > 1 else []):
                inputs = {key: value for key, value in example.items() if key not in without}
                yield Case(f"{prefix}without {' and '.join(without)}{state}", chosen, inputs, steps)
            yield Case(f"{prefix}evaluation{state}", chosen, example, steps, training=False)
        for option in options:
            if steps and option == "num_classes":  # the state is of so many
                continue
            for value in VALUES[option]:
                for kind in ("plain", "ignored", "hard"):
                    inputs = KINDS[kind](example, value if option == "ignore_index" else ignore_index)
                    if inputs is not None:
                        yield Case(f"{option}={value!r}, {kind}{state}", {**given, option: value}, inputs, steps)
    for one, other in itertools.combinations([option for option in options if option != "num_classes"], 2):
        pair = {one: VALUES[one][0], other: VALUES[other][0]}
        yield Case(f"{one}={pair[one]!r}, {other}={pair[other]!r}", {**given, **pair}, example, [])
    required = {key: given[key] for key, p in named.items() if key in given and p.default is p.empty}
    if required != given:
        yield Case("as it is by default", required, example, [])
    for title, chosen, changed in SPECIAL.get(name, []):
        steps = next((steps for begin, steps in SPECIAL_STEPS.items() if title.startswith(begin)), [])
        yield Case(f"{title}, {chosen}", {**given, **chosen}, {**example, **changed}, steps)
