"""Reads this project's docstrings for the API pages: sections that griffe does not know become paragraphs."""

import re
import textwrap
from typing import Any

import griffe

from lightning_losses.catalogue.losses import catalogue

_LOSS_MODULES = {entry.module for entry in catalogue()}


class Sections(griffe.Extension):
    """Rewrites the sections of every docstring into what griffe's Google style knows, or into Markdown."""

    def on_object(self, *, obj: Any, **others: Any) -> None:
        """Rewrite one docstring; that of a loss's module says what its class says, and is left out."""
        if obj.is_module and obj.path in _LOSS_MODULES:
            obj.docstring = None
        if obj.docstring is not None:
            # A class returns nothing by itself: what its call returns is told in words.
            names = "Shapes|Source|Returns" if obj.is_class else "Shapes|Source"
            text = re.sub(rf"(?m)^({names}):\n((?:    .*\n|\n)*(?:    .*\Z)?)", _paragraph, obj.docstring.value)
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", text)


def _paragraph(found: re.Match[str]) -> str:
    return f"**{found[1]}:**\n\n{textwrap.dedent(found[2]).strip()}\n\n"
