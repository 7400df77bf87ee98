"""Every method has all its corners: file, configuration, test, golden values or a reason, a line in the docs."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch

from lightning_losses import metrics
from lightning_losses.catalogue.losses import STATUS, catalogue
from lightning_losses.catalogue.parts import PARTS, parts
from lightning_losses.kernels.chunked_head import chunked_head
from lightning_losses.kernels.linear_distillation import linear_distillation
from lightning_losses.kernels.linear_emo import linear_emo
from lightning_losses.kernels.linear_noisefit import linear_noisefit
from lightning_losses.kernels.rows.by_hand import evaluator_of
from lightning_losses.kernels.rows.objectives import objective_of
from lightning_losses.kernels.rows.row_wise import cross_entropy_options
from lightning_losses.losses import loss_classes
from tests.losses.examples import build

ROOT = Path(__file__).parents[2]

# By the loss, the method of its golden cases where that has another name: ofa_stages is the loss on each branch.
GOLDEN_NAMES = json.loads((ROOT / "tests" / "golden" / "loss_names.json").read_text())
REPOSITORY = re.compile(r"\b([\w.-]+/[\w.-]+)@[0-9a-f]{7,40}\b")


@cache
def every_case():
    """The entries of all manifests."""
    manifests = sorted((ROOT / "tests" / "golden").rglob("manifest.json"))
    return [entry for manifest in manifests for entry in json.loads(manifest.read_text())]


def cases(method):
    """The golden cases of a method."""
    return [entry for entry in every_case() if entry["method"] == method]


def sources(method):
    """Who computed the golden values of a method, as its manifests say."""
    return {case["source"] for case in cases(method)}


def missing_corners(entry, root):
    """What a method lacks."""
    own_test = root / "tests" / "losses" / entry.family / f"test_{entry.id}.py"
    golden = sources(GOLDEN_NAMES.get(entry.id, entry.id))
    corners = {
        "file": (root / "lightning_losses" / "losses" / entry.family / f"{entry.id}.py").is_file(),
        "configuration": any((root / "conf" / "objective" / f"{name}.yaml").is_file() for name in entry.configs),
        "test": own_test.is_file(),
        "golden values or a reason": bool(entry.evidence)
        and bool(golden) is not entry.evidence.startswith("no golden values"),
        "line in the docs": any(f"`{entry.id}`" in page.read_text() for page in (root / "docs").glob("*.md")),
    }
    return [name for name, there in corners.items() if not there]


each_entry = pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry.id)


@each_entry
def test_a_method_has_every_corner(entry):
    # A loss may have a configuration in another's objective; then the test of every loss sees to it.
    assert [corner for corner in missing_corners(entry, ROOT) if corner != "configuration" or not used(entry)] == []


def used(entry):
    text = "\n".join(path.read_text() for path in (ROOT / "conf" / "objective").glob("*.yaml"))
    return f"_target_: lightning_losses.losses.{entry.name}\n" in text + "\n"


def test_every_missing_corner_is_seen(tmp_path):
    (kd,) = (entry for entry in catalogue() if entry.id == "kd")
    assert missing_corners(kd, ROOT) == []
    everything = ["file", "configuration", "test", "line in the docs"]
    assert missing_corners(kd, tmp_path) == everything
    for name, path in zip(
        everything,
        [
            "lightning_losses/losses/distillation/divergences/kd.py",
            "conf/objective/kd.yaml",
            "tests/losses/distillation/divergences/test_kd.py",
            "docs/distillation.md",
        ],
        strict=True,
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("`kd`")
        assert name not in missing_corners(kd, tmp_path)
    # Golden values without a word of them, and a reason for not having those that there are.
    for evidence in ("", "no golden values"):
        assert missing_corners(type(kd)(**{**vars(kd), "evidence": evidence}), ROOT) == ["golden values or a reason"]


@each_entry
def test_a_status_is_what_the_evidence_allows(entry):
    golden = sources(GOLDEN_NAMES.get(entry.id, entry.id))
    repositories = {name for source in golden for name in REPOSITORY.findall(source)}
    named = set(re.findall(r"\b[\w.-]+/[\w.-]*[A-Za-z][\w.-]*", entry.evidence))
    if entry.status == "confirmed":
        # The repository of the authors comes first, and made golden values and gradients.
        repository = re.match(r"[\w.-]+/[\w.-]+", entry.evidence)
        assert repository, entry.evidence
        own = [case for case in cases(GOLDEN_NAMES.get(entry.id, entry.id)) if repository[0] in case["source"]]
        compared = {name.startswith("grad") for case in own for name in case["expected"]}
        assert compared == {True, False}, f"{entry.id} is compared in values and gradients: {compared}"
    else:
        # Somebody else's code, or the authors' for a part alone.
        assert not repositories or "not the authors' code" in entry.evidence or " for " in entry.evidence
    # Nobody is named who computed nothing, nobody left out who did.
    assert repositories <= named
    if not golden and entry.status != "confirmed":
        assert entry.evidence.startswith("no golden values")


@each_entry
def test_a_line_is_complete(entry):
    assert len(entry.summary) > 20 and not entry.summary.endswith(".")
    assert re.search(r", (19|20)\d\d, \"", entry.paper) or "no formula of its own" in entry.evidence, entry.paper
    assert entry.status in STATUS and entry.fused in ("by hand", "by hand on CUDA", "in chunks", "no")


@pytest.mark.parametrize("loss", loss_classes(), ids=lambda loss: loss.identifier())
def test_fused_is_what_the_kernels_take(loss):
    (entry,) = (entry for entry in catalogue() if entry.id == loss.identifier())
    generator = torch.Generator().manual_seed(0)
    hidden, weight, teacher_hidden, teacher_weight = (
        torch.randn(rows, 3, dtype=torch.float64, generator=generator) for rows in (4, 5, 4, 5)
    )
    target, module = torch.tensor([0, 1, 2, 3]), build(loss)

    def fused():
        # Two have heads of their own.
        if entry.id == "emo":
            return linear_emo(module, hidden, weight, target, chunk=2)
        if entry.id == "noisefit":
            return linear_noisefit(module, hidden, hidden.flip(0), 2 * hidden, weight, target, chunk=2)
        if "teacher_logits" not in entry.inputs:
            return chunked_head(module, hidden, weight, target, chunk=2)
        return linear_distillation(
            hidden, weight, teacher_hidden, teacher_weight, target, objective=module, chunk=2
        ).loss

    if entry.fused == "no":
        with pytest.raises((ValueError, TypeError)):
            fused()
    else:
        offered = {"teacher_logits": teacher_hidden @ teacher_weight.T, "target": target, "cost_embedding": weight}
        offered |= {"noisy_logits": hidden.flip(0) @ weight.T, "noisy_logits_b": 2 * hidden @ weight.T}
        expected = module(hidden @ weight.T, **{name: offered[name] for name in offered if name in entry.inputs})
        # The same numbers, two rows at a time.
        torch.testing.assert_close(fused(), expected)
        by_hand = evaluator_of(module) is not None or cross_entropy_options(module) is not None
        assert (entry.fused == "by hand") == by_hand
        assert entry.fused != "by hand on CUDA" or objective_of(module) is not None


@pytest.mark.parametrize("kind", PARTS)
def test_parts_say_what_they_are(kind):
    found = parts(kind)
    assert len(found) >= 4 and len({part.name for part in found}) == len(found)
    assert all(len(part.summary) > 20 for part in found)


def test_parts_know_what_chooses_them():
    assert {part.name: part.configs for part in parts("callbacks")}["CalibrationMonitor"] == ("callbacks=calibration",)
    assert {part.name: part.configs for part in parts("calibrators")}["PlattScaling"] == ("calibrator=platt",)
    # objective=alignment_uniformity makes the loss of this name.
    assert {part.name: part.configs for part in parts("callbacks")}["AlignmentUniformity"] == (
        "callbacks=alignment_uniformity",
    )
    names = {part.name for part in parts("kernels")}
    assert {"linear_cross_entropy", "linear_distillation"} <= names
    assert "Monitor" not in {part.name for part in parts("callbacks")}
    # What others derive from is no metric.
    assert {part.name for part in parts("metrics")} <= set(metrics.__all__)
