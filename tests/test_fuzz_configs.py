"""Malformed command lines and configuration files: each ends in one readable message, never in a trace.

`make fuzz` runs 2,000 of them and prints counts; the suite the first few.
"""

import contextlib
import io
import logging
import random
import string
import warnings
from unittest import mock

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, ListConfig

from lightning_losses.experiments import launch
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.config.check_overrides import _compose, _configurations, plain_overrides
from lightning_losses.experiments.launch import experiment_of
from lightning_losses.experiments.messages import message

IN_SUITE = 16
SMALL = ("data.max_bytes=100000", "data.block_length=32", "data.batch_size=4", "model.width=16", "model.depth=1")
BASES = (
    ["experiment=distill", "data=digits"],
    ["experiment=classify", "data=digits"],
    ["experiment=self_distill", "data=digits"],
    ["experiment=mixup", "data=digits"],
    ["experiment=online_distill", "data=digits", "objective=bdkd"],
    ["experiment=grok_perpgrad", "data.prime=11"],
    ["experiment=grok_xor", "data.dimension=100"],
)
# Each attempt takes seconds, so that the suite leaves them to `make fuzz`.
SLOWER_BASES = (
    ["experiment=language_model", *SMALL],
    ["experiment=distill_language_model", *SMALL, "teacher.width=16", "teacher.depth=1"],
)
GROUPS = (
    "experiment",
    "objective",
    "balancing",
    "data",
    "model",
    "teacher",
    "optimizer",
    "scheduler",
    "trainer",
    "callbacks",
    "logger",
)
JUNK = (
    "abc", "[1,2]", "{a:1}", "null", "true", "-1", "0", "1e999", "nan", "''", "'${nope}'", "'${model}'", "???", "1.5",
    "'" + "x" * 300 + "'", "ünïcode", "{_target_:os.system}", "[{_target_:builtins.eval}]", "[[]]", "'a b'", "inf",
    "[]", "-inf", "1000000000000", "KD", "digits", "{}", "[0.9]", "[nan]",
)  # fmt: skip
# Values of the right type that can't be right.
BAD = (
    "threads=0", "trainer.limit_train_batches=0", "trainer.limit_val_batches=0", "hydra.run.dir=/proc/x",
    "cache=/proc/x", "output=/proc/x", "modules.student=null", "+callbacks.x={_target_:lightning_losses.losses.KD}",
    "trainer.accumulate_grad_batches=0", "trainer.gradient_clip_val=-1", "seed=range(0)", "seed=-1", "optimizer.lr=-1",
    "optimizer.lr=nan", "optimizer.weight_decay=-1", "data.train_rows=5", "data.batch_size=0",
    "trainer.accelerator=gpu", "trainer.devices=0", "trainer.max_epochs=0", "+trainer.max_steps=0",
    "+trainer.val_check_interval=0", "+trainer.check_val_every_n_epoch=0", "model=null", "data=null",
    "threads=100000000", "output=''", "hydra.run.dir=''", "hydra.run.dir=null", "objective.terms={}", "modules={}",
    "+trainer.min_epochs=-5", "optimizer.betas=[0.9]", "optimizer.betas=[2,2]", "optimizer=[1]", "trainer.devices=-5",
    "trainer.devices=abc", "data.split_seed=-1", "data.augmentation=KD", "execution.blocks=foo",
    "execution.blocks=[foo]",
    "execution.compile=foo", "teacher_data.foo=1", "~objective", "~data", "teacher_cache_temperature=inf",
    "optimized_metric=foo", "optimizer.lr=inf", "+trainer.max_time=0", "+trainer.max_time='00:00:00:00'",
    "+logger.flush_logs_every_n_steps=0", "+callbacks.x=3", "+callbacks.x={a:1}", "data.num_workers=100000000",
    "trainer.limit_train_batches=0.001", "+trainer.fast_dev_run=true", "trainer.val_check_interval=1000", "runs=null",
    "gates=3", "weights=best", "execution.compile=eager", "callbacks.grokking=null", "data.train_samples=1",
    "data._target_=torch.nn.ReLU", "optimizer._target_=torch.nn.ReLU", "trainer._target_=torch.nn.ReLU",
)  # fmt: skip
BAD_TOGETHER = (
    ["experiment=distill", "data=digits", "teacher=none", "objective=kd"],
    ["experiment=classify", "data=digits", "objective=kd"],
    ["experiment=self_distill", "data=digits", "objective=kd"],
    ["experiment=distill", "data=digits", "teacher_cache=100"],
    ["experiment=distill", "data=digits", "+teacher_data.foo=1"],
    ["experiment=classify", "data=digits", "objective.terms.ce.weight=nan"],
    ["experiment=classify", "data=digits", "callbacks=early_stopping", "callbacks.early_stopping.monitor=foo"],
    ["experiment=classify", "data=digits", "callbacks=early_stopping", "callbacks.early_stopping.patience=-1"],
)
FILES = (
    "a: [1, 2",
    "\tx: 1",
    "- 1\n- 2",
    "just text",
    "defaults: 3",
    "defaults:\n  - nothing_of_this_name",
    "defaults:\n  - override /objective: nope",
    "# @package _global_\nmodules: 3",
    "# @package _global_\nmodules:\n  student:\n    _target_: os.system\n    command: exit",
    "# @package _global_\nallowed_targets: [os]",
    "# @package _global_\ntrainer:\n  max_epochs: {a: 1}",
    "# @package _global_\nmodel: !!python/object/apply:os.system [exit]",
    "# @package _global_\noptimizer:\n  lr: ${oc.env:NOTHING_OF_THIS_NAME}",
    "# @package nowhere.at.all\nx: &a [*a]",
    "\x00\x01",
    "seed: 1\nseed: 2",
)


def leaves(node, path=""):
    """The dotted names of all values in a configuration."""
    names = node if isinstance(node, DictConfig) else []
    for name in names:
        where = f"{path}.{name}" if path else str(name)
        child = node._get_node(name)
        yield where
        if isinstance(child, DictConfig | ListConfig) and not child._is_interpolation():
            yield from leaves(child, where)


def misspelt(word, rng):
    place = rng.randrange(len(word))
    return word[:place] + rng.choice(string.ascii_lowercase) + word[place + rng.randrange(2) :]


def malformed(rng, names, folder, bases=BASES):
    """A command line with one fault, drawn at random."""
    if rng.random() < 0.2:
        return rng.choice([*([*rng.choice(bases), bad] for bad in BAD), *BAD_TOGETHER])
    base, name, value = list(rng.choice(bases)), rng.choice(names), rng.choice(JUNK)
    kind = rng.randrange(9)
    if kind == 0:
        group = rng.choice(GROUPS)
        return [*base, f"{group}={misspelt('none', rng)}{rng.choice(string.ascii_lowercase)}"]
    if kind == 1:
        return [*base, f"{misspelt(name, rng)}={value}"]
    if kind in (2, 3):
        return [*base, f"{name}={value}"]
    if kind == 4:
        target = rng.choice(
            ["os.system", "builtins.eval", "", "3", "a.b.c", "torch.load", "torch.nn", "lightning_losses.no"]
        )
        return [*base, f"{rng.choice(['model', 'optimizer', 'data', 'trainer', 'modules.student'])}._target_={target}"]
    if kind == 5:
        return [*base, f"~{name}"]
    if kind == 6:
        return [*base, "".join(rng.choice("=+~@{}[](),.:'\"$\\ab1 ") for _ in range(rng.randint(1, 12)))]
    if kind == 7:
        return [*base, f"+{name}.{misspelt('value', rng)}={value}"]
    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment" / "foreign.yaml").write_text(rng.choice(FILES))
    return ["--config-dir", str(folder), "data=digits", "experiment=foreign"]


def attempt(line):
    """ "message", or "accepted" for what was no fault; anything else is what went wrong, in words."""
    told = io.StringIO()
    rehearsing = False

    def found(*given):
        nonlocal rehearsing
        rehearsing = True
        return experiment_of(*given)

    try:
        with contextlib.redirect_stderr(told), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
            arguments = get_args_parser().parse_args(plain_overrides(line))
            with mock.patch.object(launch, "experiment_of", found):
                launch.prepare(arguments, "train")
                if any(word.startswith("hydra.run.dir=") for word in line):
                    launch.hold_folder(arguments, "train").__enter__()
    except SystemExit:
        return "message" if "usage:" in told.getvalue() and "Traceback" not in told.getvalue() else "left silently"
    except Exception as error:
        if not rehearsing and not isinstance(error, ConfigError):
            return f"{type(error).__name__} of a check: {str(error)[:200]}"
        text = message(error)
        readable = text and "Traceback" not in text and len(text) < 4000 and text.count("\n") <= 2
        return "message" if readable else f"unreadable: {text[:300]}"
    return "accepted"


def fuzz(count, folder, seed=0, bases=BASES):
    """Counts of outcomes, and the command lines that went wrong."""
    rng = random.Random(seed)
    with _configurations(None):
        names = sorted({name for base in bases for name in leaves(_compose("train", base))})
    counts, wrong = {"message": 0, "accepted": 0, "wrong": 0}, {}
    while counts["message"] + counts["wrong"] < count:
        line = malformed(rng, names, folder, bases)
        outcome = attempt(line)
        counts[outcome if outcome in counts else "wrong"] += 1
        if outcome not in counts:
            wrong[tuple(line)] = outcome
    return counts, wrong


def test_malformed_configurations_end_in_one_message(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    counts, wrong = fuzz(IN_SUITE, tmp_path)
    assert not wrong
    assert counts["message"] == IN_SUITE


def test_a_network_given_for_a_value_is_named_and_not_printed_layer_by_layer():
    assert attempt(["experiment=classify", "data=digits", "+trainer.strategy.value='${model}'"]) == "message"
