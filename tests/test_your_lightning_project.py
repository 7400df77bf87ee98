"""The configurations on the page on other people's projects are configurations; its Python runs with all pages'."""

import re
import tomllib
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lightning_losses.losses.registered import GROUP

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "your_lightning_project.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_application_s_configuration_takes_ours(tmp_path):
    primary, _, _ = blocks("yaml")
    (tmp_path / "config.yaml").write_text(primary)
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("config")
    assert instantiate(config.objective).terms.nkd.weight == 0.5
    assert "weight_norms" in config.callbacks


def test_the_template_is_as_the_page_shows_it():
    _, shown, _ = map(OmegaConf.create, blocks("yaml"))
    template = OmegaConf.load(ROOT / "docs" / "template" / "conf" / "train.yaml")
    assert shown == OmegaConf.masked_copy(template, list(shown))


def test_losses_of_others_by_configuration():
    _, _, objective = blocks("yaml")
    built = instantiate(OmegaConf.create(objective))
    value = built(logits=torch.randn(6, 3), features=torch.randn(6, 4), target=torch.tensor([0, 1, 2, 0, 1, 2]))
    assert set(value.parts) == {"focal", "triplets"} and bool(torch.isfinite(value.total))
    assert built.terms.triplets.batch_coupled and not built.terms.focal.batch_coupled


def test_the_entry_point_is_of_the_group_that_is_looked_for():
    (toml,) = blocks("toml")
    assert list(tomllib.loads(toml)["project"]["entry-points"]) == [GROUP]


def test_every_extra_is_named():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert named == set(extras) - {"dev", "docs"}
