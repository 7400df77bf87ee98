"""Losses of others in the catalogue: wrapped by a configuration of ours, or registered by their own distributions."""

from importlib.resources import files

from omegaconf import OmegaConf

from lightning_losses.catalogue.losses import Entry, catalogue, entry_of
from lightning_losses.losses.registered import registered_losses

# In place of the family of a loss of ours.
FAMILIES = ("wrapped", "registered")


def every_loss(family: str | None = None, needs: str | None = None) -> list[Entry]:
    """The catalogue, and after it the losses of others.

    Args:
        family: only the losses of this family, or only the "wrapped" or "registered" ones.
        needs: only the losses that can't do without this tensor.

    Raises:
        ValueError: a family or a tensor that no loss has.

    Example:
        >>> [entry.module for entry in every_loss("wrapped") if entry.id == "zlpr"]
        ['timm.loss']
    """
    own = [] if family in FAMILIES else catalogue(family, needs)
    # What kernels do with a registered loss could be found out by building one alone.
    registered = [entry_of(loss, name, "registered", "no") for name, loss in registered_losses().items()]
    others = [*wrapped_losses(), *registered]
    return own + [
        entry for entry in others if family in (None, entry.family) and (needs is None or entry.inputs.get(needs))
    ]


def wrapped_losses() -> list[Entry]:
    """Losses of other libraries that a file in ``conf/objective/`` makes a term of; none of them is imported."""
    found = []
    for path in sorted((files("lightning_losses.conf") / "objective").iterdir(), key=lambda path: path.name):
        name, _, suffix = path.name.rpartition(".")
        if suffix != "yaml":
            continue
        text = path.read_text(encoding="utf-8")
        adapted = OmegaConf.select(OmegaConf.create(text), f"terms.{name}.loss")
        if adapted is None or not str(adapted.get("_target_")).endswith(".Adapted"):
            continue
        module, _, loss = str(adapted.loss["_target_"]).rpartition(".")
        # Below the line with the command, the file says what it is.
        comment = [line.lstrip("# ") for line in text.splitlines()[1:] if line.startswith("#")]
        found.append(
            Entry(
                id=name,
                name=loss,
                module=module,
                family="wrapped",
                summary=" ".join(comment).rstrip("."),
                paper="",
                inputs=dict.fromkeys(map(str, adapted.inputs.values()), True),
                settings={},
                batch_coupled=bool(adapted.get("batch_coupled", False)),
                fused="no",
                top_k="",
                status="wrapped",
                evidence=f"that of {module.partition('.')[0]}, called as it is",
                configs=(name,),
            )
        )
    return found
