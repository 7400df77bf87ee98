"""What the calibration page shows runs as it stands."""

import re
import shlex
from pathlib import Path

import pytest

from lightning_losses.experiments.config.check_overrides import check_overrides
from lightning_losses.experiments.config.settings import SETTINGS
from lightning_losses.losses import loss_classes

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "calibration.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines() if line.strip()
]


def test_its_examples_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for example in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(example, names)
    for file in ("reliability.png", "risk.png", "calibrator.safetensors"):
        assert (tmp_path / file).is_file()
    # The logits are twice as large as those that the targets were drawn from.
    assert names["calibrator"].temperature.item() == pytest.approx(2, rel=0.15)
    assert 0.05 < names["summary"]["ece"] < 0.3


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_compose(command):
    words = shlex.split(command)
    if words[0] == "python":
        assert (ROOT / words[1]).is_file()
        recipe, overrides = Path(words[1]).stem, words[2:]
    else:
        assert words[0] == "lightning-losses"
        recipe, overrides = words[1], words[2:]
    jobs = check_overrides(
        recipe, [word for word in overrides if word != "-m"], SETTINGS[recipe], multirun="-m" in overrides
    )
    assert jobs


def test_every_choice_file_and_class_it_names_is_there():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).is_file(), link
    for group in ("calibrator", "objective"):
        rows = PAGE.partition("| `calibrator=` |" if group == "calibrator" else "| objectives |")[2].split("\n\n")[0]
        choices = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}
        named = {name for row in rows.splitlines()[2:] for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])}
        assert named and named <= choices
    # What the table of objectives leaves out of the family is what it must not.
    offered = {loss.identifier() for loss in loss_classes() if ".confidence." in loss.__module__}
    assert offered <= named
