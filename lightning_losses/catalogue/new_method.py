"""Begin a method: the files that every method has, from templates that compute something and say what to fill in."""

import ast
import keyword
import re
from pathlib import Path
from string import Template

from lightning_losses.environment.atomic_files import write_all
from lightning_losses.environment.lazy_exports import exports

FILL_IN = "FILL IN"
TEMPLATES = Path(__file__).with_name("templates")
_LONGEST = 30
_CAPITALS = {"kd", "kl", "ce", "rkl", "jsd", "ot"}


def row_above(subject: str) -> str:
    """The line of a page that the rows of a family's methods stand above.

    Args:
        subject: the family, or the folder of families, such as "distillation".
    """
    return f"<!-- `lightning-losses new {subject}` puts a method's line above this one. -->"


def new_method(family: str, identifier: str, root: Path | None = None) -> list[Path]:
    """Write a method's loss, configuration and test, its exports, and its line in the family's page.

    The loss has an example's formula: it runs, and keeps what every loss must keep. What is left to fill in says so,
    and the method's own test fails until nothing says so any more.

    Args:
        family: a folder in ``lightning_losses/losses/`` that holds losses, such as "distillation/logits".
        identifier: the method's name in snake_case.
        root: the checkout; by default the present folder.

    Returns:
        The files that are to be filled in, in the order in which that is best done.

    Raises:
        ValueError: outside a checkout; an unknown family, or one without a page; a name that is taken, or not a
            snake_case identifier.
    """
    root = Path.cwd() if root is None else root
    families = root / "lightning_losses" / "losses"
    if not families.is_dir() or not (root / "tests" / "losses").is_dir():
        raise ValueError(f"new: {root} is not a checkout of lightning_losses; change to one first.")
    folders = {path.parent for path in families.rglob("*/__init__.py")}
    # A folder of folders holds no loss itself.
    known = sorted(str(folder.relative_to(families)) for folder in folders - {folder.parent for folder in folders})
    if family not in known:
        raise ValueError(f"new: the family {family!r} came; choose one of {', '.join(known)}.")
    # Longer ones would break the template's lines.
    fits = re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", identifier) and len(identifier) <= _LONGEST
    name = "".join(part.upper() if part in _CAPITALS else part.capitalize() for part in identifier.split("_"))
    # True and None are keywords as the name of a class alone.
    if not fits or keyword.iskeyword(identifier) or keyword.iskeyword(name):
        raise ValueError(
            f"new: the name {identifier!r} came; give a snake_case identifier of up to {_LONGEST} "
            "characters, such as foo_kd."
        )
    subject, *below = family.split("/")
    page = _page(root / "docs", row_above(subject))
    loss = families / family / f"{identifier}.py"
    config = root / "conf" / "objective" / f"{identifier}.yaml"
    test = root / "tests" / "losses" / family / f"test_{identifier}.py"
    who = "with_teacher" if subject == "distillation" else "without_teacher"
    templates = {loss: f"loss_{who}.py.txt", test: f"test_{who}.py.txt", config: f"objective_{who}.yaml"}
    _refuse_taken(identifier, name, families, [config, test])
    if re.search(rf"^from .* import .*\b{name}\b", (TEMPLATES / templates[loss]).read_text(), re.MULTILINE):
        raise ValueError(f"new: the name {identifier!r} came, and every loss imports {name}; choose another.")
    values = {
        "id": identifier,
        "name": name,
        "family": family,
        "page": page.name,
        "depth": 3 + len(below),
        "fill": FILL_IN,
    }
    texts = {
        path: Template((TEMPLATES / template).read_text()).substitute(values) for path, template in templates.items()
    }
    row = f"| `{identifier}` | {FILL_IN}: what it does |\n"
    texts[page] = page.read_text().replace(f"\n{row_above(subject)}", f"{row}\n{row_above(subject)}")
    module = f"lightning_losses.losses.{family.replace('/', '.')}.{identifier}"
    for package, source in ((families, module), (root / "lightning_losses", "lightning_losses.losses")):
        texts[package / "__init__.py"] = _with_export(package / "__init__.py", source, name)
    write_all(texts)
    return [*templates, page]


def _page(docs: Path, line: str) -> Path:
    pages = [page for page in sorted(docs.glob("*.md")) if f"\n{line}" in page.read_text()]
    if not pages:
        raise ValueError(f"new: no page in {docs} has the line {line}; write it below the family's table.")
    return pages[0]


def _refuse_taken(identifier: str, name: str, families: Path, paths: list[Path]) -> None:
    taken = [path for path in [*paths, *families.rglob(f"{identifier}.py")] if path.exists()]
    if taken:
        raise ValueError(f"new: the name {identifier!r} came, and there is {taken[0]} already; choose another.")
    if any(name in exports(str(package / "__init__.py")) for package in (families, families.parent)):
        raise ValueError(f"new: the name {identifier!r} came, and the library has {name} already; choose another.")


def _order(module: str, name: str) -> tuple[str, int, str]:
    """How ruff sorts imports: of one module names of capitals alone come first, then classes, then others."""
    return module, 0 if name.isupper() else 1 if name[0].isupper() else 2, name.lower()


def _with_export(package: Path, module: str, name: str) -> str:
    """A package's file that imports a name under ``TYPE_CHECKING``, where it sorts."""
    text = package.read_text()
    line = f"    from {module} import {name} as {name}\n"
    if len(line) > 121:
        line = f"    from {module} import (\n        {name} as {name},\n    )\n"
    block = next(node for node in ast.parse(text).body if isinstance(node, ast.If))
    before = [
        each
        for each in block.body
        if isinstance(each, ast.ImportFrom) and _order(str(each.module), each.names[0].name) < _order(module, name)
    ]
    lines = text.splitlines(keepends=True)
    lines.insert(before[-1].end_lineno or 0 if before else block.lineno, line)
    return "".join(lines)
