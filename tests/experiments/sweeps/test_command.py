"""The words of a run are those that W&B's own agent starts."""

import json
import sys
from pathlib import Path

import pytest
import wandb.wandb_agent
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.sweeps.command import check_command, expand, recipe_of

PARAMETERS = {
    "optimizer.lr": 1e-05,
    "seed": 3,
    "trainer.benchmark": True,
    "trainer.deterministic": False,
    "optimizer.betas": [0.9, 0.99],
    "objective": "kd",
    "trainer.gradient_clip_val": None,
    "optimizer": {"lr": 0.1, "nested": {"momentum": 0.9}},
}
COMMANDS = [
    ["${env}", "${interpreter}", "${program}", "objective=kd", "${args_no_hyphens}"],
    ["${env}", "WHERE=${envvar:SWEEP_TEST_HOME}/x", "${interpreter}", "${program}", "${args}"],
    ["${program}", "${args_no_equals}"],
    ["${program}", "${args_no_boolean_flags}"],
    ["${program}", "${args_append_hydra}"],
    ["${program}", "${args_override_hydra}", 3],
    ["${program}", "${args_json}"],
    [],
]


class Started:
    """What W&B's agent would have started, in place of the process."""

    def __init__(self, command, **_):
        self.command = command


@pytest.fixture
def agent(monkeypatch, tmp_path):
    """W&B's agent, whose one missing part is the server."""
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    # Before 0.21 the agent writes below the working folder, to one that a run has made.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wandb" / "sweep-sweep").mkdir(parents=True)
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("SWEEP_TEST_HOME", "/home")
    # The agent sets them; monkeypatch takes them away afterwards.
    monkeypatch.setenv("WANDB_RUN_ID", "")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "")
    monkeypatch.setattr(wandb.wandb_agent, "AgentProcess", Started)

    def start(command):
        agent = wandb.wandb_agent.Agent(api=None, queue=None, sweep_id="sweep")
        agent._sweep_command = list(command)
        arguments = {name: {"value": value} for name, value in PARAMETERS.items()}
        agent._command_run({"run_id": "run", "program": "recipes/train.py", "args": arguments})
        return agent._run_processes["run"].command

    return start


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_words_are_those_of_wandbs_agent(agent, command):
    assert expand(command, PARAMETERS, program="recipes/train.py", interpreter="python") == [
        str(word) for word in agent(command)
    ]


def test_the_json_file_holds_what_wandbs_agent_writes(agent, tmp_path):
    command = ["${program}", "${args_json_file}"]
    theirs = agent(command)[1]
    ours = expand(command, PARAMETERS, program="recipes/train.py", json_file=tmp_path / "ours.json")[1]
    assert json.loads(Path(ours).read_text()) == json.loads(Path(theirs).read_text())


def test_every_macro_of_wandb_is_known():
    named = create_sweep_command_args({"args": {"lr": {"value": 1}}})
    # What isn't a list of words is no macro.
    macros = [name for name, words in named.items() if isinstance(words, list)]
    check_command([f"${{{name}}}" for name in macros], None)
    assert create_sweep_command() == ["${env}", "${interpreter}", "${program}", "${args}"]


def test_the_interpreter_is_this_one():
    assert expand(["${interpreter}"], {}, program=None) == [sys.executable]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["${args_no_hyphen}"], "did you mean args_no_hyphens?"),
        (["x=${program}"], "replaced only where it is a word of its own"),
        (["${program}"], "there is none, and the command has"),
        ("python train.py", "give a list of words"),
    ],
)
def test_what_the_agent_would_drop_is_one_sentence(command, message):
    with pytest.raises(ConfigError, match=message):
        check_command(command, None)


@pytest.mark.parametrize(
    ("words", "recipe"),
    [
        (["/usr/bin/env", "python", "recipes/train.py", "seed=1"], "train"),
        (["python", "-m", "lightning_losses.recipes.calibrate"], "calibrate"),
        (["/opt/bin/lightning-losses", "train", "seed=1"], "train"),
        (["python", "train.py"], None),
        (["python", "elsewhere/train.py", "recipes=train"], None),
    ],
)
def test_which_recipe_a_command_starts(words, recipe):
    assert recipe_of(words) == recipe
