"""What the README shows runs as it stands."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

README = (Path(__file__).parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_one_loss_in_a_plain_loop():
    names = {}
    exec(EXAMPLES[0], names)
    assert names["logits"].grad.abs().sum() > 0


def test_own_lightning_module():
    names = {}
    exec(EXAMPLES[1], names)
    student = names["Student"](nn.Linear(4, 3), nn.Linear(4, 3))
    output = student.training_step((torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])), 0)
    output["loss"].backward()
    assert student.network.weight.grad.abs().sum() > 0
    assert not any("teacher" in name for name in student.state_dict())


def test_every_picture_and_file_it_links_to_is_there():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    for link in links:
        assert (Path(__file__).parents[1] / link).is_file(), link


@pytest.mark.parametrize("group", ["experiment", "data", "model", "teacher", "logger", "objective"])
def test_choices_it_names_exist(group):
    row = next((line for line in README.splitlines() if line.startswith("|") and f"`{group}=" in line), None)
    assert row is not None
    choices = {path.stem for path in (Path(__file__).parents[1] / "conf" / group).glob("*.yaml")}
    named = set(re.findall(r"`([a-z_0-9]+)`", row.split("|")[2]))
    assert named <= choices
