"""What the README shows runs as it stands."""

import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import lightning_losses
from lightning_losses.catalogue.losses import catalogue
from lightning_losses.catalogue.needs import NEEDS
from lightning_losses.catalogue.parts import parts

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
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(r'src="([^"]+)"', README)
    assert links
    for link in links:
        assert (Path(__file__).parents[1] / link).is_file(), link


@pytest.mark.parametrize("group", ["experiment", "data", "model", "teacher", "logger", "objective"])
def test_choices_it_names_exist(group):
    row = next(line for line in README.splitlines() if re.match(rf"\| (`\w+=`, )?`{group}=", line))
    choices = {path.stem for path in (Path(__file__).parents[1] / "conf" / group).glob("*.yaml")}
    named = set(re.findall(r"`([a-z_0-9]+)`", row.split("|")[2]))
    assert named <= choices


def test_its_headline_counts_what_there_is():
    entries = catalogue()
    confirmed = sum(entry.status == "confirmed" for entry in entries)
    assert f"**{len(entries)} losses " in README and f"| {len(entries)} losses, " in README
    assert f" {confirmed} of them equal their authors' own code" in README and f"| {confirmed} losses, values" in README
    assert f" losses, {len(parts('calibrators'))} calibrators (" in README
    assert len(README.splitlines()) < 200


def test_its_needs_are_those_that_choose_knows():
    table = README.partition("## Which do I need?")[2].partition("## Three ways")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row.split("|")[1])}
    assert named == {need.id for need in NEEDS}
    # Rounded there.
    effects = {need.id: " ".join(answer.effect for answer in need.answers) for need in NEEDS}
    for row in rows[:-1]:
        (need,) = re.findall(r"`([a-z-]+)`", row.split("|")[1])
        known = [abs(float(number)) for number in re.findall(r"[+-]?\d+\.\d+", effects[need])]
        for number in map(float, re.findall(r"\d+\.\d+", row.split("|")[3])):
            assert any(abs(number - one) < 0.06 for one in known), (need, number)


def test_the_citation_has_the_version():
    citation = OmegaConf.load(Path(__file__).parents[1] / "CITATION.cff")
    assert citation.version == lightning_losses.__version__
