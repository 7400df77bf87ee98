"""Begin a method: the files that every method has, from a template that computes something and says what to fill in."""

import keyword
import re
from pathlib import Path
from string import Template

from lightning_losses.losses import index, loss_classes

FILL_IN = "FILL IN"
ROW_ABOVE = "<!-- `lightning-losses new` puts a method's line above this one. -->"
_LONGEST = 30
_CAPITALS = {"kd", "kl", "ce", "rkl", "jsd", "ot"}


def new_method(family: str, identifier: str, root: Path | None = None) -> list[Path]:
    """Write a method's loss, configuration and test, and its line in the family's page.

    The loss has an example's formula: it runs, and keeps what every loss must keep. What is left to fill in says so,
    and the method's own test fails until nothing says so any more.

    Args:
        family: a folder in ``lightning_losses/losses/`` that holds losses, such as "distillation/logits".
        identifier: the method's name in snake_case.
        root: the checkout; by default the present folder.

    Returns:
        The files, in the order in which they are best filled in.

    Raises:
        ValueError: outside a checkout; an unknown family; a name that is taken, or not a snake_case identifier.
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
    if not fits or keyword.iskeyword(identifier):
        raise ValueError(
            f"new: the name {identifier!r} came; give a snake_case identifier of up to {_LONGEST} "
            "characters, such as foo_kd."
        )
    name = "".join(part.upper() if part in _CAPITALS else part.capitalize() for part in identifier.split("_"))
    function = identifier if identifier.endswith("_loss") else f"{identifier}_loss"
    loss = families / family / f"{identifier}.py"
    config = root / "conf" / "objective" / f"{identifier}.yaml"
    test = root / "tests" / "losses" / family / f"test_{identifier}.py"
    subject, *below = family.split("/")
    page = root / "docs" / f"{subject}.md"
    _refuse_taken(identifier, {name, function}, [config, test, *families.rglob(f"{identifier}.py")])
    teacher = subject == "distillation"
    values = {
        "id": identifier,
        "name": name,
        "function": function,
        "family": family,
        "page": subject,
        "depth": 3 + len(below),
        "fill": FILL_IN,
        "experiment": "distill" if teacher else "classify",
        # The order in which an import of both is sorted.
        "imported": ", ".join(sorted([name, function], key=lambda each: (each.islower(), each))),
    }
    texts = {
        loss: _WITH_TEACHER if teacher else _WITHOUT_TEACHER,
        test: _TEST_WITH_TEACHER if teacher else _TEST_WITHOUT_TEACHER,
        config: _CONFIG_WITH_TEACHER if teacher else _CONFIG_WITHOUT_TEACHER,
    }
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text).substitute(values))
    written = [*texts]
    if page.is_file() and ROW_ABOVE in page.read_text():
        row = f"| `{identifier}` | {FILL_IN}: what it does |\n"
        page.write_text(page.read_text().replace(f"\n{ROW_ABOVE}", f"{row}\n{ROW_ABOVE}"))
        written.append(page)
    return written


def _refuse_taken(identifier: str, names: set[str], paths: list[Path]) -> None:
    taken = [path for path in paths if path.exists()]
    if taken:
        raise ValueError(f"new: the name {identifier!r} came, and there is {taken[0]} already; choose another.")
    clash = names & index().keys() or {identifier} & {loss.identifier() for loss in loss_classes()}
    if clash:
        raise ValueError(
            f"new: the name {identifier!r} came, and the library has {clash.pop()} already; choose another."
        )


_WITH_TEACHER = '''"""$name: $fill, in a line, what the student learns."""

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_temperature
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import distillation_rows


def $function(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."] | None = None,
    *,
    temperature: float = 1.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Squared distance of student and teacher; see `$name`."""
    check_temperature("$id", temperature)
    check_reduction("$id", reduction)
    rows = distillation_rows("$id", logits, teacher_logits, target, ignore_index)
    student = log_probabilities(rows.logits, temperature)
    teacher = log_probabilities(rows.teacher_logits, temperature)
    # $fill: one value per sample, in log-space as far as it goes. This is an example.
    value = (student.exp() - teacher.exp()).square().sum(dim=-1)
    return reduce(value, reduction, rows.kept)


class $name(Loss):
    """$name: the squared distance between the student's and the teacher's probabilities.

    ``sum_k (s_k - t_k)²`` with ``s = softmax(logits / τ)`` and ``t = softmax(teacher_logits / τ)``.
    $fill: the formula of the method in place of this example.

    Args:
        temperature: τ, above 0.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only tells the ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a temperature of 0 or less.

    Source:
        $fill: authors, 2000, "Title", arXiv:0000.00000, and where paper, code and this differ.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round($name()(logits, -logits).item(), 4)
        1.1601
    """

    status = "experimental"
    evidence = "no golden values: $fill the reason, or the repository as owner/name"

    def __init__(self, temperature: float = 1.0, ignore_index: int = -100, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_temperature("$id", temperature)
        check_reduction("$id", reduction)
        self.temperature = temperature
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return $function(
            logits,
            teacher_logits,
            target,
            temperature=self.temperature,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
'''

_WITHOUT_TEACHER = '''"""$name: $fill, in a line, what the network learns."""

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import class_indices, classification_rows, pick


def $function(
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    *,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Probability of every other class than the target; see `$name`."""
    check_reduction("$id", reduction)
    rows = classification_rows("$id", logits, target, ignore_index)
    assert rows.target is not None
    # $fill: one value per sample, in log-space as far as it goes. This is an example.
    value = 1 - pick(log_probabilities(rows.logits), class_indices(rows.target)).exp()
    return reduce(value, reduction, rows.kept)


class $name(Loss):
    """$name: the probability that the network leaves to the wrong classes.

    ``1 - p_y`` with p the softmax and y the target. $fill: the formula of the method in place of this example.

    Args:
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits: [..., C]; target: [...] class indices, or [..., C] probabilities, of which the largest counts.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        $fill: authors, 2000, "Title", arXiv:0000.00000, and where paper, code and this differ.

    Example:
        >>> import torch
        >>> $name()(torch.zeros(2, 4), torch.tensor([1, 3])).item()
        0.75
    """

    status = "experimental"
    evidence = "no golden values: $fill the reason, or the repository as owner/name"

    def __init__(self, ignore_index: int = -100, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_reduction("$id", reduction)
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return $function(
            logits,
            target,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
'''

_UNFINISHED = """

def test_nothing_is_left_to_fill_in():
    files = [
        "lightning_losses/losses/$family/$id.py",
        "conf/objective/$id.yaml",
        "docs/$page.md",
    ]
    root = Path(__file__).parents[$depth]
    left = [name for name in files if "FILL" + " IN" in (root / name).read_text()]
    assert not left, f"$id came from the template, and is not done in {left}"
"""

_TEST_WITH_TEACHER = (
    """from pathlib import Path

import torch
from hypothesis import given

from lightning_losses.losses import $imported
from tests.losses.strategies import gradient, pairs


@given(pairs())
def test_value_from_the_definition(pair):
    s, t = pair.logits.softmax(dim=-1), pair.teacher_logits.softmax(dim=-1)
    expected = sum((a - b) ** 2 for a, b in zip(s.flatten(), t.flatten(), strict=True)) / len(s)
    torch.testing.assert_close($function(pair.logits, pair.teacher_logits), expected)


@given(pairs())
def test_a_student_like_its_teacher_has_nothing_to_learn(pair):
    assert not gradient($name(), pair.logits, pair.logits).any()
"""
    + _UNFINISHED
)

_TEST_WITHOUT_TEACHER = (
    """from pathlib import Path

import torch
from hypothesis import given

from lightning_losses.losses import $imported
from tests.losses.strategies import one_hot, pairs


@given(pairs())
def test_value_from_the_definition(pair):
    probabilities = pair.logits.softmax(dim=-1)
    expected = sum(1 - row[label] for row, label in zip(probabilities, pair.target, strict=True)) / len(pair.target)
    torch.testing.assert_close($function(pair.logits, pair.target), expected)


@given(pairs())
def test_a_one_hot_target_is_its_index(pair):
    soft = one_hot(pair.target, pair.logits)
    loss = $name()
    assert torch.equal(loss(pair.logits, soft), loss(pair.logits, pair.target))
"""
    + _UNFINISHED
)

_TERM = """  $id:
    _target_: lightning_losses.objective.Term
    loss:
      _target_: lightning_losses.losses.$name
    weight: 1.0
"""

_HEAD = """# python recipes/train.py experiment=$experiment objective=$id
# $fill: whose numbers these are.
_target_: lightning_losses.objective.Objective
terms:
"""

_CONFIG_WITHOUT_TEACHER = _HEAD + _TERM

_CONFIG_WITH_TEACHER = (
    _HEAD
    + """  ce:
    _target_: lightning_losses.objective.Term
    loss:
      _target_: lightning_losses.losses.CrossEntropy
      label_smoothing: 0.0
    weight: 1.0
"""
    + _TERM
)
