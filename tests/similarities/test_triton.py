"""The Triton kernels of similarities without a GPU: numbers by the interpreter, resources by the compiler."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_losses.similarities import triton
from tests.kernels.compiled import SHARED_MEMORY, compiles

pytestmark = pytest.mark.kernels


def lines_of(module, interpreted):
    done = subprocess.run(
        [sys.executable, "-m", f"tests.similarities.{module}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TRITON_INTERPRET": str(int(interpreted))},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_values_and_gradients_equal_those_of_the_matrix():
    lines = lines_of("triton_cases", True)
    assert len(lines) == 3 * 10
    for line in lines:
        limit = {"float32": 1e-6, "float64": 1e-14}[line["dtype"]]
        # Scores of hundreds leave fewer digits of their differences.
        assert max(line["errors"]) <= limit * (30 if line["case"] == "huge" else 1), line


@compiles
@pytest.mark.slow
def test_compiled_kernels_neither_spill_nor_exceed_shared_memory():
    lines = lines_of("triton_compiled", False)
    assert len(lines) == 3 * 2 * 2
    for line in lines:
        assert line["spilled"] == 0, line
        assert line["shared"] <= SHARED_MEMORY[line["architecture"]], line


def test_on_a_cpu_torch_s_operations_are_enough():
    assert not triton.has_kernels(torch.zeros(1))
