import copy
import math
import re
from contextlib import nullcontext

import pytest
from omegaconf import OmegaConf, open_dict

from lightning_losses.experiments.config.check_config import ConfigError, check_config, check_trainer, fits
from lightning_losses.experiments.config.check_overrides import check_overrides
from lightning_losses.experiments.config.settings import TrainSettings


def check(line):
    arguments = line.split()
    multirun = "-m" in arguments
    return check_overrides("train", [word for word in arguments if word != "-m"], TrainSettings, multirun=multirun)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "experiment=distill objective=sinkd",
        "data=digits",
        "model=vit_tiny teacher=resnet10t",
        "trainer.max_epochs=3",
        "seed=1",
        "logger=wandb",
        "-m objective=kd,nkd,sinkd seed=0,1,2",
        "-m optimizer.lr=0.1,0.01",
        "-m seed=range(3)",
        "trainer=ddp_fork trainer.devices=2",
        "experiment=online_distill objective=bdkd",
        "experiment=self_distill objective=uskd",
        "experiment=classify objective=ce",
        "scheduler=none logger=none",
        "+trainer.fast_dev_run=true",
        "~scheduler",
        "hydra.run.dir=here",
        "objective@supervised=ce",
        "trainer.gradient_clip_val=1",
        "trainer.precision=bf16-mixed",
        "teacher_seed=3 weights=best cache=here threads=null",
    ],
)
def test_what_can_run_passes(line):
    assert len(check(line)) >= 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "objective=nkdd",
            r"^objective=nkdd: there is no objective 'nkdd'; did you mean nkd\? Choose one of: .*\bsinkd\b",
        ),
        ("model=foo", r"^model=foo: there is no model 'foo'; choose one of: .*\blarge_cnn\b"),
        ("data=cifar", r"^data=cifar: there is no data 'cifar'; choose one of: .*\bdigits\b"),
        ("optimizr.lr=1", r"^optimizr.lr=1: there is no 'optimizr' in the configuration; did you mean optimizer\?"),
        ("objectve=kd", r"did you mean objective\?"),
        (
            "optimizer.learning_rate=1",
            r"there is no 'learning_rate' in optimizer; choose one of: betas, lr, weight_decay",
        ),
        (
            "objective.terms.nkd.loss.tau=1",
            r"there is no 'tau' in objective.terms.nkd.loss; choose one of: gamma, temp",
        ),
        ("+objective.terms.nkd.loss.tau=1", r"NKD takes no 'tau'; choose one of: gamma, ignore_index"),
        ("+foo.bar=1", r"there is no 'foo' in the configuration"),
        ("trainer.max_epochs=abc", r"^trainer.max_epochs='abc': give an integer or null.$"),
        ("optimizer.lr=abc", r"^optimizer.lr='abc': give a number.$"),
        ("data.batch_size=1.5", r"^data.batch_size=1.5: give an integer.$"),
        ("seed=abc", r"^seed='abc': give an integer at least 0 and at most 4294967295.$"),
        ("debug=3", r"^debug=3: give true or false.$"),
        ("weights=first", r"^weights='first': give one of last, best.$"),
        ("trainer.precision=17", r"^trainer.precision=17: give one of .*bf16-mixed"),
        ("teacher=none", r"^teacher=none: this experiment has a teacher; choose one"),
        ("foo", r"overrides look like key=value"),
        ("=3", r"overrides look like key=value"),
        ("objective=kd,nkd", r"several values are a sweep; add -m"),
        ("-m objective=kd,nkdd seed=0,1", r"^objective=nkdd: there is no objective"),
        ("-m seed=0,1,x", r"^seed='x': give an integer"),
        ("experiment=distill model.width=[1,2]", r"model.width=\[1, 2\]: give an integer"),
        ("threads=0", r"^threads=0: give an integer at least 1 and at most 1024 or null"),
        ("seed=-1", r"^seed=-1: give an integer at least 0"),
        ("seed=range(0)", r"^seed=range\(0\): there is no value in it; give at least one"),
        ("-m seed=range(0)", r"^seed=range\(0\): there is no value in it; give at least one"),
        ("trainer.accumulate_grad_batches=0", r"^trainer.accumulate_grad_batches=0: give a number at least 1"),
        ("trainer.gradient_clip_val=-1", r"^trainer.gradient_clip_val=-1: give a number at least 0"),
        ("trainer.limit_train_batches=0", r"^trainer.limit_train_batches=0: give a number above 0"),
        ("trainer.limit_train_batches=0.0", r"^trainer.limit_train_batches=0.0: give a number above 0"),
        ("+trainer.val_check_interval=0", r"^trainer.val_check_interval=0: give a number above 0"),
        ("+trainer.check_val_every_n_epoch=0", r"^trainer.check_val_every_n_epoch=0: give a number at least 1"),
        ("optimizer.lr=-1", r"^optimizer.lr=-1: give a number at least 0"),
        ("optimizer.lr=nan", r"^optimizer.lr=nan: give a finite number at least 0"),
        ("optimizer.weight_decay=-1", r"^optimizer.weight_decay=-1: give a number at least 0"),
        ("model=null", r"^model=null: choose one of .*small_cnn.*, or take it out by ~model"),
        ("modules.student=null", r"^modules.student=null: it is what a run trains; leave it"),
        ("experiment=classify modules.student=null", r"^modules.student=null: it is what a run trains; leave it"),
        ("teacher=none objective=kd", r"^teacher=none: this experiment has a teacher; choose one"),
        (
            "+callbacks.x={_target_:lightning_losses.losses.KD}",
            r"^callbacks.x._target_=lightning_losses.losses.KD: it is no Callback; give one, or take callbacks.x out",
        ),
        ("optimizer=[1]", r"^optimizer=\[1\]: give one of its names: adamw, "),
        ("hydra.run.dir=null", r"^hydra.run.dir=null: this names no place; give a path"),
        ("hydra.run.dir=''", r"^hydra.run.dir='': this names no place; give a path"),
        ("objective.terms={}", r"^objective.terms={}: an empty value changes nothing; .* such as ~objective.terms.ce"),
        ("modules={}", r"^modules={}: an empty value changes nothing"),
        ("teacher_data.foo=1", r"^teacher_data.foo=1: teacher_data is empty; add it by \+teacher_data.foo"),
        ("~objective", r"^modules.student.objective: .*'objective' not found.*; keep that key"),
        ("data._target_=torch.nn.ReLU", r"^data._target_=torch.nn.ReLU: it is no LightningDataModule"),
        ("optimizer._target_=lightning_losses.losses.KD", r"KD: it is no Optimizer"),
    ],
)
def test_what_can_not_run_is_one_line_with_the_choices(line, message):
    with pytest.raises(ConfigError, match=message) as found:
        check(line)
    assert "\n" not in str(found.value)


@pytest.fixture(scope="module")
def config():
    """One that is composed once: what is tried of it needs no composing."""
    return check("experiment=classify data=digits callbacks=early_stopping logger=csv")[0]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("threads", 10**8, "threads=100000000: give an integer at least 1 and at most 1024 or null."),
        ("teacher_cache_temperature", math.inf, "teacher_cache_temperature=inf: give a finite number above 0."),
        ("data.split_seed", -1, "data.split_seed=-1: give a whole number of at least 0 and at most 4294967295."),
        ("model.depth", 10**12, "depth=1000000000000: give a number at least 0 and at most 10000."),
        ("data.num_workers", 10**8, "give a whole number of at least 0 and at most 1024."),
        ("data.augmentation", "KD", "='KD': give a configuration of a Callable (with _target_) or null."),
        ("execution.blocks", "foo", "execution.blocks='foo': give a list, each a text or null."),
        ("execution.blocks", [1], "execution.blocks=[1]: give a list, each a text or null."),
        ("objective.terms.ce.weight", math.nan, "objective.terms.ce.weight=nan: give a finite number."),
        ("optimizer.lr", math.inf, "optimizer.lr=inf: give a finite number at least 0."),
        ("optimizer.betas", [0.9], "optimizer.betas=[0.9]: give a list of 2, each a number."),
        ("optimizer.betas", [], "optimizer.betas=[]: give a list of 2, each a number."),
        ("optimizer.betas", [2, 2], "optimizer.betas=[2, 2]: give for each of these a number at least 0 and below 1."),
        ("optimizer", {"lr": 1.0}, "it has no _target_, which says what is built"),
        ("trainer.devices", -5, "trainer.devices=-5: give a number at least -1"),
        ("trainer.min_epochs", -5, "trainer.min_epochs=-5: give a number at least 0."),
        ("trainer.max_time", 0, "trainer.max_time=0: give a text or null."),
        ("callbacks.early_stopping.patience", -1, "early_stopping.patience=-1: give a number at least 0."),
        ("callbacks.x", 3, "callbacks.x=3: it has no _target_"),
        ("logger.flush_logs_every_n_steps", 0, "logger.flush_logs_every_n_steps=0: give a number at least 1."),
        ("logger", {"flush_logs_every_n_steps": 0}, "it has no _target_, which says what is built"),
    ],
)  # fmt: skip
def test_values_that_can_not_be_right_are_named_with_what_can(config, key, value, message):
    changed = copy.deepcopy(config)
    with open_dict(changed):
        OmegaConf.update(changed, key, value, merge=False, force_add=True)
    with pytest.raises(ConfigError, match=re.escape(message)) as found:
        check_config(changed, TrainSettings)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"devices": "abc"}, "trainer.devices=abc: give how many processes, at least 1, or auto"),
        ({"devices": "1, 2"}, None),
        ({"devices": -1, "accelerator": "cpu"}, "trainer.devices=-1: give how many processes, at least 1, or auto"),
        ({"devices": []}, "trainer.devices=[]: give how many"),
        ({"max_time": "00:00:00:00"}, "trainer.max_time=00:00:00:00: this is not a positive duration"),
        ({"max_time": {"hours": 0}}, "this is not a positive duration"),
        ({"max_time": "abc"}, "trainer.max_time=abc: this is not a positive duration"),
        ({"max_time": "00:00:01:00"}, None),
        ({"overfit_batches": 5}, "trainer.overfit_batches=5: Lightning would put other loaders"),
        ({"overfit_batches": 0.0}, None),
        ({"strategy": "foo"}, "trainer.strategy=foo: there is no such strategy; choose one of: auto, ddp, "),
        ({"strategy": "ddp"}, None),
    ],
)
def test_a_trainer_has_devices_and_time(value, message):
    trainer = OmegaConf.create({"accelerator": "auto", "devices": 1, **value})
    with nullcontext() if message is None else pytest.raises(ConfigError, match=re.escape(message)):
        check_trainer(trainer)


def test_every_value_of_a_sweep_is_composed():
    configs = check("-m objective=kd,nkd,sinkd seed=0,1")
    assert {"kd", "nkd", "sinkd"} <= {term for config in configs for term in config.objective.terms}
    assert {config.seed for config in configs} == {0, 1}


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, float, True),
        (True, float, False),
        (True, int, False),
        (1.0, int, False),
        (None, int | None, True),
        ("a", int | str, True),
        ([1], list[int] | str | int, True),
        ("x", float | object, False),
        ({"a": 1}, dict, True),
        ({"a": 1}, str, False),
        ({"a": 1}, str | None, False),
        ({"a": 1}, dict | str, True),
    ],
)
def test_plain_values_fit_plain_annotations(value, annotation, expected):
    assert fits(value, annotation) is expected
