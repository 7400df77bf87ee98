"""Our configurations in somebody else's Hydra application: found, typed, and as loose as they were otherwise."""

import copy
import pickle
import re
from contextlib import contextmanager
from pathlib import Path

import hydra
import lightning as L
import pytest
import torch
from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.lightning_losses_searchpath import GROUPS, LightningLossesConfigSource
from lightning_losses import NKD, Objective
from lightning_losses.experiments.config.structured_configs import structured

CONF = Path(__file__).parents[2] / "conf"
FILES = [f"{group}/{file.stem}" for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]


@contextmanager
def application(folder, primary):
    """A Hydra application of a single file."""
    (folder / "config.yaml").write_text(primary)
    with initialize_config_dir(str(folder), version_base="1.3"):
        yield


def test_an_application_takes_ours_and_builds_it(tmp_path):
    primary = "defaults: [objective: nkd, callbacks: grokking, _self_]\nobjective: {terms: {nkd: {weight: 0.5}}}"
    with application(tmp_path, primary):
        config = compose("config", ["objective.terms.nkd.loss.reduction=sum", "callbacks.nlm_cosine.every_n_steps=3"])
    objective = hydra.utils.instantiate(config.objective)
    assert isinstance(objective, Objective) and isinstance(objective.terms.nkd.loss, NKD)
    assert objective.terms.nkd.weight == 0.5 and objective.terms.nkd.loss.reduction == "sum"
    assert hydra.utils.instantiate(config.callbacks)["nlm_cosine"].every_n_steps == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "objective.terms.nkd.loss.temprature=2",
            "Key 'temprature' not in 'NKD(gamma, temperature, ignore_index, reduction, shared_support)'",
        ),
        ("objective.terms.nkd.loss.temperature=abc", "Value 'abc' of type 'str' could not be converted to Float"),
        ("objective.terms.nkd.loss.ignore_index=1.5", "Value '1.5' of type 'float' could not be converted to Integer"),
        ("objective.terms.nkd.loss.reduction=average", "Invalid value 'average', expected one of [mean, sum, none]"),
        ("objective.terms.nkd.wieght=2", "Key 'wieght' not in 'Term(loss, weight, inputs)'"),
        ("callbacks.weight_norms.every_n_step=2", "Key 'every_n_step' not in 'WeightNorms("),
        ("callbacks.grokking.measure=los", "Invalid value 'los', expected one of [accuracy, loss]"),
        ("objective=nkdd", "Could not find 'objective/nkdd'"),
        ("+objective@second=zlpr second.terms.zlpr.loss.one_hott=1", "Key 'one_hott' not in 'Adapted(loss, inputs, "),
        ("+objective@second=two_way second.terms.two_way.loss.loss.tq=1", "Key 'tq' not in 'TwoWayLoss(tp, tn)'"),
    ],
)
def test_what_does_not_fit_fails_when_it_is_composed_with_the_choices(tmp_path, override, message):
    primary = "defaults: [objective: nkd, callbacks: grokking, _self_]"
    with application(tmp_path, primary), pytest.raises(HydraException) as found:
        compose("config", override.split())
    # Hydra prints both.
    assert message in f"{found.value}\n{found.value.__cause__}"


def test_a_wrong_name_in_the_application_s_own_file_fails_too(tmp_path):
    primary = "defaults: [objective: nkd, _self_]\nobjective: {terms: {nkd: {loss: {temprature: 2}}}}"
    with application(tmp_path, primary), pytest.raises(HydraException) as found:
        compose("config")
    assert "Key 'temprature' not in 'NKD(" in str(found.value)


def test_the_application_s_own_file_of_a_name_wins_and_the_rest_is_ours(tmp_path):
    (tmp_path / "objective").mkdir()
    (tmp_path / "objective" / "kd.yaml").write_text("mine: 1")
    with application(tmp_path, "defaults: [objective: kd]"):
        assert compose("config") == {"objective": {"mine": 1}}
        assert set(compose("config", ["objective=nkd"]).objective.terms) == {"ce", "nkd"}


# What the application has to give, where it has no data of ours.
GIVEN = {"num_classes": 5, "in_chans": 3, "length": 40, "num_features": 12, "img_size": 16, "vocabulary_size": 11,
         "context_length": 7, "buckets": 13, "input_shape": [3, 16, 16]}  # fmt: skip
# Some have a number of their own where the data have none.
FED_BY_DATA = [
    file for file in FILES if re.search(r"\$\{oc\.select:data\.\S+,null\}", (CONF / f"{file}.yaml").read_text())
]


def test_a_group_stands_anywhere_without_data_of_ours(tmp_path):
    assert "${data." not in "".join((CONF / f"{file}.yaml").read_text() for file in FILES)
    places = [f"/{file.split('/')[0]}@mine.{file.replace('/', '_')}: {file.split('/')[1]}" for file in FED_BY_DATA]
    with application(tmp_path, f"defaults: [{', '.join(places)}, /teacher@teacher: small_cnn]"):
        config, near = compose("config"), compose("config", ["+data.num_classes=4", "+data.input_shape=[2,8,8]"])
    assert (near.teacher.num_classes, near.teacher.in_chans) == (4, 2)
    for file in FED_BY_DATA:
        node = config.mine[file.replace("/", "_")]
        with pytest.raises(InstantiationException, match=r"=None came; give (a number|(a )?whole number)"):
            hydra.utils.instantiate(node)

        def give(part):
            for name in part if isinstance(part, (DictConfig, ListConfig)) else ():
                if name in GIVEN and str(part._get_node(name)._value()).startswith("${oc.select:data."):
                    part[name] = GIVEN[name]
            for child in (
                part.values() if isinstance(part, DictConfig) else part if isinstance(part, ListConfig) else ()
            ):
                give(child)

        give(node)
        built = hydra.utils.instantiate(node)
        # A group of callbacks has them by name.
        parts = built.values() if isinstance(built, dict | DictConfig) else [built]
        assert all(isinstance(part, torch.nn.Module | L.Callback) for part in parts)


def test_an_objective_stands_within_a_model_and_a_teacher_takes_its_numbers(tmp_path):
    primary = "defaults: [/objective@model.objective: nkd, teacher: small_cnn, _self_]\nmodel: {lr: 0.1}"
    given = ["teacher.num_classes=3", "teacher.in_chans=3", "model.objective.terms.nkd.loss.gamma=2"]
    with application(tmp_path, primary):
        config = compose("config", given)
    assert hydra.utils.instantiate(config.model)["objective"].terms.nkd.loss.gamma == 2
    assert hydra.utils.instantiate(config.teacher).head.out_features == 3


def test_our_primary_configurations_and_experiments_are_not_offered(tmp_path):
    with application(tmp_path, "a: 1"):
        loader = GlobalHydra.instance().config_loader()
        assert set(GROUPS) <= set(loader.get_group_options("", results_filter=ObjectType.GROUP))
        assert "experiment" not in loader.get_group_options("", results_filter=ObjectType.GROUP)
        for absent in ("train", "calibrate"):
            with pytest.raises(HydraException):
                compose(absent)


def test_our_own_recipes_do_not_see_their_files_twice():
    with initialize_config_module("lightning_losses.conf", version_base="1.3"):
        path = GlobalHydra.instance().config_loader().get_search_path().get_path()
    assert [element.provider for element in path] == ["hydra", "main", "schema"]


@pytest.mark.parametrize("file", FILES)
def test_every_file_fits_its_own_types_and_says_what_it_said(file):
    source = LightningLossesConfigSource("test", "lightning-losses://conf")
    assert source.is_config(file)
    loaded, written = source.load_config(file).config, OmegaConf.load(CONF / f"{file}.yaml")

    def agree(typed, plain):
        if isinstance(plain, DictConfig):
            assert isinstance(typed, DictConfig)
            for name in plain:
                agree(typed._get_node(name), plain._get_node(name))
        elif isinstance(plain, ListConfig):
            assert len(typed) == len(plain)
            for position in range(len(plain)):
                agree(typed._get_node(position), plain._get_node(position))
        else:
            assert typed._value() == plain._value()

    agree(loaded, written)


def test_a_typed_configuration_is_copied_pickled_and_printed(tmp_path):
    with application(tmp_path, "defaults: [objective: nkd]"):
        config = compose("config")
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert other == config
        with pytest.raises(OmegaConfBaseException, match="not in 'NKD"):
            other.objective.terms.nkd.loss.temprature = 1
    assert "reduction: mean" in OmegaConf.to_yaml(config)
    loss = hydra.utils.instantiate(config.objective.terms.nkd.loss)
    # To what it is handed to, and in files, a choice is a text.
    assert isinstance(loss.reduction, str) and "reduction='mean'" in repr(loss)
    assert type(pickle.loads(pickle.dumps(loss)).reduction) is str


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "no_such_package.Loss", "alpha": 1},
        {"_target_": "lightning_losses.losses.NoSuchLoss", "alpha": 1},
        {"_target_": "builtins.dict", "alpha": 1},
        {"_target_": "lightning_losses.losses.KD", "_args_": [2.0]},
    ],
)
def test_what_has_no_readable_signature_stays_as_it_is(node):
    typed = structured(OmegaConf.create({"loss": node}))
    assert OmegaConf.to_container(typed) == {"loss": node}
    typed.loss.beta = 2
