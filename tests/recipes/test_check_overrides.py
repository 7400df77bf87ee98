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
        ("seed=abc", r"^seed='abc': give an integer.$"),
        ("debug=3", r"^debug=3: give true or false.$"),
        ("weights=first", r"^weights='first': give one of last, best.$"),
        ("trainer.precision=17", r"^trainer.precision=17: give one of .*bf16-mixed"),
        ("teacher=none", r"give a configuration of a Module"),
        ("foo", r"overrides look like key=value"),
        ("=3", r"overrides look like key=value"),
        ("objective=kd,nkd", r"several values are a sweep; add -m"),
        ("-m objective=kd,nkdd seed=0,1", r"^objective=nkdd: there is no objective"),
        ("-m seed=0,1,x", r"^seed='x': give an integer"),
        ("experiment=distill model.width=[1,2]", r"model.width=\[1, 2\]: give an integer"),
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
