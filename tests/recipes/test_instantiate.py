"""What a configuration may build, and what it may not, however it is written."""

import contextlib
import re
import sys

import pytest
import torch
import yaml
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
from lightning_losses.experiments.config.settings import CalibrateSettings, TrainSettings
from lightning_losses.networks import timm_network
from lightning_losses.networks.sentence_encoder import SentenceEncoder

REFUSED = str.split("""
os os.system builtins.eval builtins.exec subprocess.run functools.partial operator.methodcaller
torch.load torch.hub.load torch.compile torch.utils.cpp_extension.load torch.utils.data.DataLoader
torch.jit.load torch.package.PackageImporter torch.distributed.run.main
torch.nn.functional.importlib.import_module torch.nn.modules.module.torch.load torch.nn.utils.clip_grad_norm_
torch.nn.modules.batchnorm._BatchNorm torch.nn.functional._in_projection
torch.optim.optimizer.functools.partial
hydra.utils.get_method hydra.utils.instantiate
lightning.pytorch.cli.LightningCLI lightning.pytorch.LightningModule.load_from_checkpoint
timm.models._helpers.torch.load timm.models._helpers.load_state_dict timm.create_model
torchvision.datasets.CIFAR10
lightning_losses.experiments.launch.os.system lightning_losses.networks.weights.pickle.loads
lightning_losses.data.mnist5k.np.load
lightning_losses.modules.Classifier.load_from_checkpoint lightning_losses.calibrators.convex._logistic_value
lightning_losses.experiments.training.kept_networks.KeptNetworks
lightning_losses.experiments.launch.experiment_of lightning_losses.experiments.kinds.grok.Run
lightning_losses.losses.KD.forward torch.nn
nothing.here
joblib.load numpy.load pandas.read_pickle pickle.loads runpy.run_path marshal.loads shelve.open dill.load
importlib.import_module pkgutil.resolve_name pathlib.Path.unlink shutil.rmtree builtins.open codecs.open
hydra.utils.call hydra.utils.get_class hydra.utils.get_object hydra._internal.utils._locate
omegaconf.OmegaConf.load omegaconf.OmegaConf.register_new_resolver
torch.serialization.load torch.save torch.utils.data.IterDataPipe torch.utils.model_zoo.load_url
torch.nn.Module.load_state_dict torch.nn.Linear.register_forward_hook torch.optim.Adam.load_state_dict
torch.nn.utils.prune.CustomFromMask torch.nn.functional.np.load
timm.models.load_checkpoint timm.models.load_state_dict timm.models.create_model
timm.create_model timm.models.resnet.resnet18 timm.models.safe_model_name timm.layers.set_scriptable
timm.utils.CheckpointSaver timm.data.create_dataset
torchvision.models.resnet18 torchvision.models.get_model torchvision.io.read_file
torchvision.transforms.functional.to_tensor torchvision.transforms.functional.np.load
torchmetrics.utilities.imports.RequirementCache torchmetrics.Metric.load_state_dict
lightning.pytorch.cli.SaveConfigCallback lightning.pytorch.serve.ServableModuleValidator
lightning.pytorch.loggers.MLFlowLogger lightning.pytorch.loggers.CometLogger
lightning.pytorch.plugins.io.TorchCheckpointIO lightning.fabric.plugins.io.TorchCheckpointIO
lightning.pytorch.trainer.connectors.checkpoint_connector._CheckpointConnector lightning.pytorch.Trainer.save_checkpoint
lightning.pytorch.core.saving.load_hparams_from_yaml lightning.fabric.utilities.cloud_io._load
lightning_losses.callbacks.records.metrics_file.append_metrics lightning_losses.callbacks.MetricsFile
lightning_losses.callbacks.records.metrics_file.read_metrics
lightning_losses.callbacks.records.figures.publish lightning_losses.checkpoints.atomic_checkpoints.read_checkpoint
lightning_losses.checkpoints.slurm.remove_lightnings_own lightning_losses.checkpoints.resumption.begin
lightning_losses.data.stdlib_text.source_files lightning_losses.environment.atomic_files.write_text
lightning_losses.kernels.compiled.library.load lightning_losses.kernels.compiled.library.unsupported
lightning_losses.networks.weights.read_weights lightning_losses.networks.weights.load_weights
lightning_losses.parallel.sharded_folders.find_again lightning_losses.teachers.cache_teacher.cache_teacher
lightning_losses.teachers.mapped_logits.file_sum lightning_losses.calibrators.Calibrator.load
lightning_losses.experiments.training.training.instantiate lightning_losses.diagnostics.numerics.replay
lightning_losses.catalogue.new_method.new_method lightning_losses.experiments.config.instantiate.find_target
""")

ALLOWED = str.split("""
lightning_losses.losses.KD lightning_losses.objective.Objective lightning_losses.networks.timm_network
lightning_losses.optim.warm_up.warmup_cosine lightning_losses.callbacks.interventions.grokfast.Grokfast
torch.nn.Linear torch.nn.functional.relu torch.optim.AdamW torch.optim.lr_scheduler.CosineAnnealingLR
lightning.Trainer lightning.pytorch.callbacks.EarlyStopping lightning.pytorch.loggers.CSVLogger
lightning.pytorch.strategies.DDPStrategy torchmetrics.classification.MulticlassAccuracy
timm.loss.LabelSmoothingCrossEntropy lightning_losses.experiments.kinds.grok.Grokking
lightning_losses.KD lightning_losses.teachers.checkpoint_teacher lightning_losses.teachers.timm_teacher
lightning_losses.data.seeded_views.RandomShift lightning_losses.parallel.blocks.Execution
lightning_losses.kernels.linear_cross_entropy.linear_cross_entropy lightning_losses.calibrators.TemperatureScaling
lightning.pytorch.profilers.SimpleProfiler lightning.pytorch.callbacks.ModelCheckpoint
lightning.pytorch.plugins.environments.SLURMEnvironment lightning.pytorch.plugins.MixedPrecision
torchvision.transforms.RandomErasing torchvision.ops.sigmoid_focal_loss timm.models.resnet.ResNet
""")


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_run_anything_is_refused(name):
    with pytest.raises(ConfigError, match=rf"{re.escape(name)}: a configuration may not build this\. "):
        find_target(name)


@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("torchvision.models.resnet.load_state_dict_from_url", "load_state_dict_from_url"),
        ("torch.nn.nothing.Linear", "nothing.Linear"),
        ("lightning_losses.losses.Nothing", "Nothing"),
    ],
)
def test_what_an_allowed_package_lacks_is_named(name, lacks):
    with pytest.raises(ConfigError, match=rf"it can't be imported \([a-z._]+ has no {re.escape(lacks)}\)"):
        find_target(name)


@pytest.mark.parametrize("name", ALLOWED)
def test_parts_of_a_training_are_built(name):
    assert callable(find_target(name))


@pytest.mark.parametrize(
    "name",
    [
        *[3, None, "", ".os", "a b", "os.system()", ["os.system"], "torch.nn.Module.__class__"],
        *["lightning_losses.losses.KD.__init__.__globals__", "lightning_losses.losses.KD.__subclasses__"],
        "torch.nn.functional.boolean_dispatch.__globals__",
    ],
)
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ConfigError, match="give the dotted name of a class or a function"):
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
        lambda evil: {"x": "${oc.create:{_target_: os.mkdir, path: %s}}" % evil["path"]},  # noqa: UP031
        lambda evil: {"a": "os.", "b": "mkdir", "x": {**evil, "_target_": "${a}${b}"}},
        lambda evil: {"a": "os", "x": {**evil, "_target_": "${oc.decode:${a}.mkdir}"}},
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


@pytest.mark.parametrize("text", [r"\${oc.create:{_target_: os.mkdir}}", r"a\${nothing}"])
def test_what_would_be_resolved_a_second_time_is_refused(text):
    with pytest.raises(ConfigError, match="could become anything when it is read again"):
        instantiate(OmegaConf.create({"_target_": "torch.nn.Linear", "in_features": text, "out_features": 1}))


def test_plain_values_are_resolved_before_they_are_checked(trace):
    # As read from a file beside a checkpoint: no configuration yet, and Hydra would make one of it.
    hidden = {"network": "${oc.create:{_target_: os.mkdir, path: %s}}" % trace}  # noqa: UP031
    with pytest.raises(ConfigError, match=r"os\.mkdir: a configuration may not build this"):
        instantiate(hidden)


def test_what_is_checked_is_what_is_built():
    """A resolver that answers otherwise each time is asked once."""
    answers = iter(["torch.nn.ReLU", "os.getcwd", "os.getcwd"])
    OmegaConf.register_new_resolver("another_each_time", lambda: next(answers), replace=True)
    assert isinstance(instantiate(OmegaConf.create({"_target_": "${another_each_time:}"})), torch.nn.ReLU)
    assert next(answers) == "os.getcwd"


@pytest.mark.parametrize(
    ("target", "argument"),
    [("loggers.CSVLogger", "save_dir"), ("loggers.CSVLogger", "name"), ("loggers.TensorBoardLogger", "version"),
     ("profilers.SimpleProfiler", "dirpath"), ("profilers.AdvancedProfiler", "filename"),
     ("callbacks.ModelCheckpoint", "dirpath"), ("callbacks.OnExceptionCheckpoint", "dirpath"),
     ("lightning_losses.callbacks.PostHocCalibration", "path"), ("lightning_losses.callbacks.WeightNorms", "folder")],
)  # fmt: skip
@pytest.mark.parametrize(
    "place", ["/etc", "~/.ssh", "a/../../b", "s3://bucket/a", "C:\\a", "file:/a", "dir::/a", "$HOME/a", "%x%"]
)
def test_what_writes_stays_within_the_run(target, argument, place):
    node = {"_target_": target if "losses" in target else f"lightning.pytorch.{target}", argument: place}
    with pytest.raises(ConfigError, match="may write only below the working folder"):
        check_targets({"x": node})
    check_targets({"x": {**node, argument: "logs/a..b"}})
    with allowing([node["_target_"]]):
        check_targets({"x": node})


def test_no_package_is_run_to_look_at_a_name(tmp_path, monkeypatch, trace):
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(trace)!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("evil.Net", "evil", "torch.evil", "lightning.evil.Net"):
        with pytest.raises(ConfigError):
            find_target(name)
    assert essential({"_target_": "evil.Net", "a": 1}) == {"_target_": "evil.Net", "a": 1}
    with pytest.raises(ValueError, match="without a dot"):
        SentenceEncoder(package="evil.part")


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "lightning_losses.losses.adapted.Adapted", "loss": "evil.Net"},
        {"_target_": "lightning_losses.losses.KD", "reduction": "evil.Net"},
        {"_target_": "lightning_losses.losses.StableMaxCrossEntropy", "compute_dtype": "evil.Net"},
        {"_target_": "lightning_losses.networks.timm_network", "name": "evil.Net", "num_classes": 2},
        {"_target_": "lightning_losses.networks.timm_network", "name": "hf-hub:evil/Net", "num_classes": 2},
        {"_target_": "lightning_losses.networks.timm_network", "name": "local-dir:evil", "num_classes": 2},
        {"_target_": "lightning_losses.networks.sentence_encoder.SentenceEncoder", "package": "evil.Net"},
        {"_target_": "lightning.Trainer", "strategy": "evil.Net"},
        {"_target_": "lightning.Trainer", "accelerator": "evil.Net"},
        {"_target_": "lightning.Trainer", "profiler": "evil.Net"},
        {"_target_": "lightning.Trainer", "precision": "evil.Net"},
        {"_target_": "lightning.Trainer", "plugins": ["evil.Net"]},
        {"_target_": "torch.nn.TransformerEncoderLayer", "d_model": 2, "nhead": 1, "activation": "evil.Net"},
        {"_target_": "lightning.pytorch.callbacks.ModelPruning", "pruning_fn": "evil.Net"},
        {"_target_": "torchmetrics.classification.MulticlassAccuracy", "num_classes": 2, "average": "evil.Net"},
    ],
)
def test_no_text_is_taken_for_a_name_to_import(node, tmp_path, monkeypatch, trace):
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(trace)!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises((ConfigError, InstantiationException)):
        instantiate(node)


def test_a_text_among_a_trainers_callbacks_imports_nothing(tmp_path, monkeypatch, trace):
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(trace)!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    # Lightning of some versions takes it, and fails with the first hook.
    with contextlib.suppress(InstantiationException):
        instantiate({"_target_": "lightning.Trainer", "callbacks": ["evil.Net"], "logger": False})
    assert "evil" not in sys.modules


@pytest.mark.parametrize("option", ["pretrained_cfg", "pretrained_cfg_overlay"])
def test_no_file_is_handed_to_timm(option):
    with pytest.raises(ValueError, match=rf"timm_network: {option} came, with which timm may unpickle a file"):
        timm_network("test_resnet", 2, **{option: {"file": "a.pt"}})


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
        ("hydra.launcher._target_=hydra_plugins.lightning_losses_searchpath.files", r"^hydra\.launcher\._target_"),
        ("hydra.output_subdir=../x", r"^hydra\.output_subdir=\.\./x: this leads out"),
        ("hydra.job.name=../x", r"^hydra\.job\.name=\.\./x: this leads out"),
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


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("job_logging: {handlers: {x: {(): os.system, command: ls}}}", r"job_logging\.handlers\.x\.\(\)=os\.system"),
        ("job_logging: {handlers: {x: {class: logging.os.system}}}", r"job_logging\.handlers\.x\.class=logging\.os"),
        ("job_logging: {handlers: {x: {class: logging.handlers.SocketHandler}}}", r"handlers\.x\.class"),
        ("hydra_logging: {handlers: '${oc.create:{x: {class: logging.os.system}}}'}", r"x\.class=logging\.os\.system"),
        ("job_logging: {handlers: '${oc.create:{x: ${hydra:runtime.x}}}'}", "its value is not known yet"),
        ("job_logging: {handlers: {x: {class: '${hydra:runtime.output_dir}'}}}", r"x\.class=\$\{hydra:runtime"),
        ("job_logging: {handlers: {file: {filename: /etc/x}}}", "a log lies in the run's folder"),
        ("job_logging: {handlers: {file: {filename: '${hydra.runtime.output_dir}/../x'}}}", "a log lies in the run's"),
        ("job_logging: {handlers: {file: {'.': {baseFilename: /x}}}}", r"handlers\.file\.\.: a file may not"),
        ("job_logging: {formatters: {simple: {x: 1}}}", r"formatters\.simple\.x: a file may not set this for logging"),
        ("job_logging: {filters: {x: {}}}", r"^hydra\.job_logging\.filters: a file may not set this for logging"),
        ("job_logging: {formatters: {simple: {format: echo}}}", r"simple: Python's logging refuses this \(Value"),
        ("job_logging: {formatters: {simple: {style: '{'}}}", r"style=\{: Hydra refuses it"),
        ("job_logging: {handlers: {console: {level: foo}}}", r"handlers\.console: Python's logging .*level: 'foo'"),
        ("job_logging: {handlers: {console: {formatter: foo}}}", "there is no formatter foo"),
        ("job_logging: {handlers: {file: {mode: foo}}}", r"handlers\.file: Python's logging refuses .*mode"),
        ("job_logging: {root: {handlers: [foo]}}", r"root: Python's logging refuses .* no handler foo"),
        ("job_logging: {loggers: {x: {level: foo}}}", r"loggers\.x: Python's logging refuses .*level: 'foo'"),
        ("job_logging: {version: 2}", r"^hydra\.job_logging\.version=2: there is one version"),
        ("job_logging: {loggers: [1]}", r"^hydra\.job_logging\.loggers=.*: give a mapping"),
        ("job: {config: {override_dirname: {item_sep: /../../..}}}", r"item_sep=/\.\./\.\./\.\.: a folder's name"),
        ("job: {config: {override_dirname: {kv_sep: /}}}", r"kv_sep=/: a folder's name would lead elsewhere"),
        ("job_logging: {handlers: {file: {filename: '${hydra.runtime.output_dir}/.${hydra.job.override_dirname}./x'}}}",
         "a log lies in the run's"),
        ("job: {env_set: {LD_PRELOAD: x.so}}", r"^hydra\.job\.env_set\.LD_PRELOAD: a file may not set this"),
        ("callbacks: {x: {_target_: hydra.experimental.callbacks.PickleJobInfoCallback}}", r"callbacks\.x\._target_"),
        ("output_subdir: ../../x", r"^hydra\.output_subdir"),
        ("launcher: {setup: [ls]}", r"^hydra\.launcher\.setup: a file may not set this"),
        ('launcher: {comment: "setup\\ntouch x"}', r"^hydra\.launcher\.comment=.*: a launcher's values"),
        ("mode: MULTIRUN", r"^hydra\.mode: a file may not set this"),
        ("sweeper: {params: {+hydra.job.env_set.CXX: x}}", r"^hydra\.sweeper\.params\..*: a file may not set this"),
        ("job: {id: ../../..}", r"^hydra\.job\.id=\.\./\.\./\.\.: this leads out"),
        ("job: {name: '..'}", r"^hydra\.job\.name=\.\.: this leads out"),
    ],
)  # fmt: skip
def test_a_file_has_hydra_do_nothing_else(tmp_path, part, message):
    (tmp_path / "calibrator").mkdir()
    launcher = "defaults:\n  - override /hydra/launcher: submitit_slurm\n" if "setup" in part else ""
    (tmp_path / "calibrator" / "foreign.yaml").write_text(f"# @package _global_\n{launcher}hydra:\n  {part}\n")
    with pytest.raises(ConfigError, match=message):
        # The recipe of the fewest files.
        check_overrides("calibrate", ["calibrator=foreign"], CalibrateSettings, config_dir=str(tmp_path))


@pytest.mark.parametrize("given", ["_args_: [/x]", "_args_: [[a/../../x]]", "dirpath: {x: ~/x}"])
def test_paths_by_place_or_within_others_stay_below_the_working_folder(given):
    node = yaml.safe_load("_target_: lightning.pytorch.callbacks.ModelCheckpoint\n" + given)
    with pytest.raises(ConfigError, match="ModelCheckpoint may write only below the working folder"):
        check_targets({"x": node})


def test_the_command_line_may_say_what_a_file_may_not():
    line = ["+hydra.job.env_set.A=b", "hydra.job_logging.handlers.file.filename=/x/y", "hydra.run.dir=/x"]
    assert check_overrides("calibrate", line, CalibrateSettings)
    for line in (["hydra/launcher=submitit_slurm", "hydra.launcher.setup=[ls]"], ["hydra/sweeper=optuna"]):
        assert check_overrides("calibrate", line, CalibrateSettings, multirun=True)


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
