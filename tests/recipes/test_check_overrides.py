import pytest

from lightning_losses.experiments.config.check_config import ConfigError, fits
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
        ("threads=0", r"^threads=0: give an integer at least 1 or null"),
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
        ("optimizer.lr=nan", r"^optimizer.lr=nan: give a number at least 0"),
        ("optimizer.weight_decay=-1", r"^optimizer.weight_decay=-1: give a number at least 0"),
        ("model=null", r"^model=null: choose one of .*small_cnn.*, or take it out by ~model"),
        ("modules.student=null", r"^modules.student=null: it is what a run trains; leave it"),
        ("experiment=classify modules.student=null", r"^modules.student=null: it is what a run trains; leave it"),
        ("teacher=none objective=kd", r"^teacher=none: this experiment has a teacher; choose one"),
        (
            "+callbacks.x={_target_:lightning_losses.losses.KD}",
            r"^callbacks.x._target_=lightning_losses.losses.KD: it is no Callback; give one, or take callbacks.x out",
        ),
        ("data._target_=torch.nn.ReLU", r"^data._target_=torch.nn.ReLU: it is no LightningDataModule"),
        ("optimizer._target_=lightning_losses.losses.KD", r"KD: it is no Optimizer"),
    ],
)
def test_what_can_not_run_is_one_line_with_the_choices(line, message):
    with pytest.raises(ConfigError, match=message) as found:
        check(line)
    assert "\n" not in str(found.value)


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
