"""What a configuration may build, and what it may not, however it is written."""

import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.config.check_overrides import check_overrides
from lightning_losses.experiments.config.instantiate import (
    allowing,
    check_targets,
    essential,
    find_target,
    instantiate,
    targets,
)
from lightning_losses.experiments.config.settings import TrainSettings

REFUSED = str.split("""
os.system builtins.eval builtins.exec subprocess.run functools.partial operator.methodcaller
torch.load torch.hub.load torch.compile torch.utils.cpp_extension.load torch.utils.data.DataLoader
torch.jit.load torch.package.PackageImporter torch.distributed.run.main
torch.nn.functional.importlib.import_module torch.nn.modules.module.torch.load torch.nn.utils.clip_grad_norm_
torch.optim.optimizer.functools.partial
hydra.utils.get_method hydra.utils.instantiate
lightning.pytorch.cli.LightningCLI lightning.pytorch.LightningModule.load_from_checkpoint
timm.models._helpers.torch.load timm.models._helpers.load_state_dict timm.create_model
torchvision.datasets.CIFAR10 torchvision.models.resnet.load_state_dict_from_url
lightning_losses.experiments.launch.os.system lightning_losses.networks.weights.pickle.loads
lightning_losses.data.mnist5k.np.load
lightning_losses.modules.Classifier.load_from_checkpoint lightning_losses.calibrators.convex._logistic_value
lightning_losses.experiments.training.kept_networks.KeptNetworks lightning_losses.losses.KD.__init__.__globals__
lightning_losses.experiments.launch.experiment_of lightning_losses.experiments.kinds.grok.Run
lightning_losses.losses.KD.__subclasses__ lightning_losses.losses.KD.forward torch.nn torch.nn.Module.__class__
nothing.here
""")

ALLOWED = str.split("""
lightning_losses.losses.KD lightning_losses.objective.Objective lightning_losses.networks.timm_network
lightning_losses.optim.warm_up.warmup_cosine lightning_losses.callbacks.interventions.grokfast.Grokfast
torch.nn.Linear torch.nn.functional.relu torch.optim.AdamW torch.optim.lr_scheduler.CosineAnnealingLR
lightning.Trainer lightning.pytorch.callbacks.EarlyStopping lightning.pytorch.loggers.CSVLogger
lightning.pytorch.strategies.DDPStrategy torchmetrics.classification.MulticlassAccuracy
timm.loss.LabelSmoothingCrossEntropy lightning_losses.experiments.kinds.grok.Grokking
""")


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_run_anything_is_refused(name):
    with pytest.raises(ConfigError, match="may not build|can't be imported|give the dotted name"):
        find_target(name)


@pytest.mark.parametrize("name", ALLOWED)
def test_parts_of_a_training_are_built(name):
    assert callable(find_target(name))


@pytest.mark.parametrize("name", [3, None, "", "os", ".os", "a b", "os.system()", ["os.system"]])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ConfigError):
        find_target(name)


@pytest.fixture
def trace(tmp_path):
    """A file that an attack would make."""
    yield tmp_path / "made"
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda evil: evil,
        lambda evil: {**evil, "_partial_": True},
        lambda evil: {"_target_": "torch.nn.Sequential", "_args_": [evil]},
        lambda evil: {"a": [[{"b": evil}]]},
        lambda evil: {"_target_": "torch.nn.Linear", "_recursive_": False, "in_features": evil, "out_features": 1},
        lambda evil: {"x": evil["_target_"], "y": {**evil, "_target_": "${x}"}},
        lambda evil: {"set": {"model._target_": evil["_target_"]}},
    ],
)
def test_depth_hides_nothing(trace, wrap):
    config = OmegaConf.create(wrap({"_target_": "os.mkdir", "path": str(trace)}))
    with pytest.raises(
        ConfigError, match=r"os\.mkdir: a configuration may not build this\. .*allowed_targets=\[os\.mkdir\]"
    ):
        instantiate(config)
    with pytest.raises(ConfigError):
        check_targets(OmegaConf.to_container(config, resolve=True))


def test_hydra_alone_would_have_built_it(tmp_path):
    import hydra.utils

    hydra.utils.instantiate({"_target_": "os.mkdir", "path": str(tmp_path / "made")})
    assert (tmp_path / "made").is_dir()


def test_the_user_extends_the_list_in_the_open():
    config = {"_target_": "collections.OrderedDict", "a": 1}
    with pytest.raises(ConfigError):
        instantiate(config)
    with allowing(["collections"]):
        assert instantiate(config) == {"a": 1}
        with pytest.raises(ConfigError):  # an import of the module is not defined in it
            find_target("collections._sys.exit")
    with allowing(["collections.OrderedDict"]):
        assert instantiate(config) == {"a": 1}
        with pytest.raises(ConfigError):
            find_target("collections.UserDict")
    with pytest.raises(ConfigError), allowing(["os.system()"]):
        pass
    with pytest.raises(ConfigError):
        instantiate(config)


def test_a_module_that_is_allowed_allows_none_that_begins_alike(tmp_path, monkeypatch):
    (tmp_path / "my_package").mkdir()
    for name in ("networks", "networks_other"):
        (tmp_path / "my_package" / f"{name}.py").write_text("class Net: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with allowing(["my_package.networks"]):
        assert callable(find_target("my_package.networks.Net"))
        with pytest.raises(ConfigError, match="may not build this"):
            find_target("my_package.networks_other.Net")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("optimizer._target_=os.system", r"^optimizer\._target_=os\.system: .*allowed_targets=\[os\.system\]"),
        ("+data.more=[[{_target_:torch.load}]]", r"^data\.more\[0\]\[0\]\._target_=torch\.load"),
        ("experiment=grok_perpgrad +runs.x={set:{model._target_:os.system}}", r"os\.system: a configuration may not"),
        ("allowed_targets=os.system", "give a list"),
        ("+hydra.callbacks.x={_target_:os.system,command:ls}", r"^hydra\.callbacks\.x\._target_=os\.system"),
        ("hydra.launcher._target_=os.system", r"^hydra\.launcher\._target_"),
        (
            "+hydra.job_logging.handlers.x={class:logging.os.system,command:ls}",
            r"^hydra\.job_logging\.handlers\.x\.class",
        ),
        (
            "+data.x={class:logging.os.system} +hydra.job_logging.handlers.x=${data.x}",
            r"^hydra\.job_logging\.handlers",
        ),
        ("+hydra.job_logging.handlers.x={class:logging.StreamHandler,stream:'ext://os.environ'}", r"stream=ext://os"),
    ],
)
def test_a_command_line_that_builds_something_else_is_refused(line, message):
    with pytest.raises(ConfigError, match=message) as found:
        check_overrides("train", line.split(), TrainSettings)
    assert "\n" not in str(found.value)


def test_a_file_does_not_extend_the_list(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "foreign.yaml").write_text(
        "# @package _global_\nallowed_targets: [os]\nx:\n  _target_: os.system\n"
    )
    with pytest.raises(ConfigError, match="only the command line may"):
        check_overrides("train", ["experiment=foreign"], TrainSettings, config_dir=str(tmp_path))
    line = ["experiment=foreign", "allowed_targets=[collections]", "~x", "+x._target_=collections.OrderedDict"]
    (config,) = check_overrides("train", line, TrainSettings, config_dir=str(tmp_path))
    assert config.x._target_ == "collections.OrderedDict"


@pytest.mark.parametrize("handler", ["{(): os.system, command: ls}", "{class: logging.os.system, command: ls}"])
def test_a_file_has_logging_build_nothing_else(tmp_path, handler):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "foreign.yaml").write_text(
        f"# @package _global_\nhydra:\n  job_logging:\n    handlers:\n      x: {handler}\n"
    )
    with pytest.raises(ConfigError, match=r"^hydra\.job_logging\.handlers\.x\..*os\.system: a configuration may not"):
        check_overrides("train", ["experiment=foreign"], TrainSettings, config_dir=str(tmp_path))


def test_an_error_within_what_is_built_keeps_its_place():
    with pytest.raises(InstantiationException, match="full_key: a"):
        instantiate({"a": {"_target_": "torch.nn.Linear", "in_features": "x", "out_features": 1}})
    assert isinstance(instantiate({"_target_": "torch.nn.ReLU"}), torch.nn.ReLU)


def test_targets_are_found_wherever_they_are():
    assert sorted(targets({"a": {"_target_": "x", "b": [{"_target_": "y"}]}, "c": "z"})) == ["x", "y"]


def test_an_argument_at_its_default_is_as_good_as_none():
    digits = {"_target_": "lightning_losses.data.Digits", "batch_size": 32}
    written_out = {**digits, "val_fraction": 0.2, "train_rows": None}
    assert essential({"data": [written_out]}) == {"data": [digits]}
    assert essential({**digits, "batch_size": 64}) == {"_target_": "lightning_losses.data.Digits"}
    # What no signature knows, and what only looks like the default, stays.
    for odd in ({**digits, "new": None}, {"_target_": "no.such", "a": 1}, {**digits, "seed": False}):
        assert essential(odd) == odd
