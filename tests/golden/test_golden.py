"""Every golden case passes; and the harness reports what does not."""

import json

import numpy as np
import pytest
import torch

from tests.golden.__main__ import main
from tests.golden.adapter import Params, gradients, leaf
from tests.golden.harness import golden_folder, load_adapters, load_cases, run_case


@pytest.mark.parametrize("case", load_cases(golden_folder()), ids=lambda case: f"{case.file.parent.name}-{case.id}")
def test_golden(case):
    result = run_case(case, load_adapters())
    assert result.outcome == "passed", result.line()


@pytest.fixture
def folder(tmp_path):
    """One case: y = 2 x, with its gradient, of a method called double."""
    x = np.array([1.0, -3.0])
    np.savez(tmp_path / "double_0.npz", x=x, y=2 * x, grad_x=np.full(2, 2.0))
    entry = {
        "id": "double_0",
        "method": "double",
        "file": "double_0.npz",
        "inputs": {"x": ""},
        "params": {"factor": 2.0, "note": "free text"},
        "expected": {"y": "", "grad_x": ""},
        "rtol": 1e-8,
        "atol": 1e-10,
    }
    (tmp_path / "manifest.json").write_text(json.dumps([entry]))
    return tmp_path


def double(inputs, params):
    with Params(params) as given:
        factor = given.take("factor")
    x = leaf(inputs["x"])
    y = factor * x
    return {"y": y, **gradients(y.sum(), x=x)}


def outcome(folder, adapter):
    (case,) = load_cases(folder)
    return run_case(case, {"double": adapter} if adapter else {})


def test_right_values_pass(folder):
    result = outcome(folder, double)
    assert (result.outcome, result.value_error, result.gradient_error) == ("passed", 0.0, 0.0)


def test_a_method_without_adapter_is_not_built(folder):
    assert outcome(folder, None).outcome == "not built"


@pytest.mark.parametrize(
    "change",
    [
        lambda out: {**out, "y": out["y"] * (1 + 1e-7)},
        lambda out: {**out, "grad_x": out["grad_x"] + 1e-6},
        lambda out: {"y": out["y"]},
        lambda out: {**out, "y": out["y"].unsqueeze(0)},
        lambda out: {**out, "y": torch.full_like(out["y"], torch.nan)},
    ],
    ids=["value", "gradient", "missing", "shape", "nan"],
)
def test_wrong_outputs_fail(folder, change):
    assert outcome(folder, lambda inputs, params: change(double(inputs, params))).outcome == "failed"


def test_an_unknown_parameter_fails_the_case(folder):
    result = outcome(folder, lambda inputs, params: double(inputs, {**params, "surprise": 1}))
    assert result.outcome == "failed"
    assert "surprise" in result.detail


def test_the_command_reports_and_exits(folder, monkeypatch, capsys):
    monkeypatch.setenv("GOLDEN_DIR", str(folder))
    assert main() == 0
    printed = capsys.readouterr().out
    assert "double_0" in printed and "1 not built" in printed
    (folder / "double_0.npz").unlink()
    entry = json.loads((folder / "manifest.json").read_text())[0]
    (folder / "manifest.json").write_text(json.dumps([{**entry, "method": "kd"}]))
    assert main() == 1
    assert "1 failed" in capsys.readouterr().out
