"""The names of tensors are written once, in code; the design page shows them."""

from pathlib import Path

import pytest
import torch

from lightning_losses.losses import loss_classes
from lightning_losses.losses.glossary import GLOSSARY, Sizes, example, glossary_table

PAGE = Path(__file__).parents[2] / "docs" / "design.md"


def test_the_design_page_shows_the_glossary():
    assert glossary_table() in PAGE.read_text()


@pytest.mark.parametrize("loss", loss_classes(), ids=lambda loss: loss.identifier())
def test_a_loss_takes_names_of_the_glossary_alone(loss):
    assert loss.inputs().keys() <= GLOSSARY.keys()


def test_an_example_has_the_role_and_the_sizes_that_it_is_said_to_have():
    for name, entry in GLOSSARY.items():
        value = example(name, Sizes(torch.Generator(), batch=3, classes=2))
        assert isinstance(value, float) == (entry.role == "scalar")
        if entry.role == "trained":
            assert value.is_floating_point()
        if "[B" in entry.shape:
            assert len(value) == 3
    with pytest.raises(ValueError, match="^glossary: the name 'moods' came"):
        example("moods", Sizes(torch.Generator()))
