"""The Triton kernels without a GPU: their numbers by the interpreter, their resources from the compiler."""

import json
import math
import os
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from packaging.version import Version

from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from tests.kernels.compiled import SHARED_MEMORY, compiles

pytestmark = pytest.mark.kernels

# float32 sums of 53 terms; the half types by their bits, and a few roundings. A confident row's loss is a difference.
TOLERANCE = {"float32": 3e-6, "bfloat16": 2e-2, "float16": 2e-3}


@cache
def lines_of(module, interpreted):
    environment = {**os.environ, "TRITON_INTERPRET": "1" if interpreted else "0"}
    done = subprocess.run(
        [sys.executable, "-m", module],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def interpreted():
    return lines_of("tests.kernels.cross_entropy.triton_cases", True)


def test_values_and_gradients_equal_float64_for_every_option_shape_and_dtype():
    cases = [line for line in interpreted() if "errors" in line]
    assert len(cases) == 15 * (2 + 1 + 1) + 3 * 3 * 2
    for line in cases:
        certain = "(1, 16, 2)" in line["case"]
        assert max(line["errors"]) <= TOLERANCE[line["dtype"]] * (100 if certain else 1), line


def test_steep_rows_do_not_overflow_in_float16():
    cases = {line["case"]: line["steep"] for line in interpreted() if "steep" in line}
    assert len(cases) == 6
    for name, apart in cases.items():
        assert max(apart) <= TOLERANCE["float16"], name


def test_a_target_outside_the_vocabulary_gives_no_number():
    (values,) = [line["outside"] for line in interpreted() if "outside" in line]
    assert [math.isnan(value) for value in values] == [False, True, False]


def test_vectors_may_have_strides():
    assert [line["strided"] for line in interpreted() if "strided" in line] == [0.0]


def test_liger_s_kernels_equal_float64():
    cases = [line for line in interpreted() if "liger" in line]
    assert len(cases) == 4
    if reasons := {line["reason"] for line in cases if line["liger"] is None}:
        pytest.skip(f"the interpreter can't run Liger's kernels: {reasons}")
    for line in cases:
        assert max(line["liger"]) <= TOLERANCE["float32"], line


def test_a_tensor_is_multiplied_in_place():
    (line,) = [line for line in interpreted() if "apart" in line]
    # float32, bfloat16 and float16 by 1 and by another number; the interpreter's bfloat16 is off by a last bit of 7.5.
    assert line["apart"][:3] == [*line["apart"][4:], 0.0] == [0.0] * 3
    assert line["apart"][3] <= 2**-5


def test_golden_values_are_met_in_float32():
    cases = [line for line in interpreted() if "golden" in line]
    assert len(cases) == 13
    for line in cases:
        # Logits of 1e3 leave float32 some 1e-5 of a small cross-entropy.
        limit = {"ce_bf16_inputs": 2e-2, "ce_large_logits": 1e-4}.get(line["case"], 2e-6)
        assert line["golden"] and max(line["golden"]) <= limit, line


def test_a_vocabulary_on_two_processes_equals_one():
    assert lines_of("tests.kernels.cross_entropy.triton_shards", True) == []


@compiles
@pytest.mark.slow
def test_compiled_kernels_neither_spill_nor_exceed_shared_memory():
    # Measured with Triton 3.8, which spills nothing, and 3.6, which spills up to 16 bytes: of float16 with every option
    # on sm_90, of the statistics on sm_100.
    most = 0 if Version(version("triton")) >= Version("3.8") else 16
    lines = lines_of("tests.kernels.cross_entropy.triton_compiled", False)
    assert len(lines) == 3 * 3 + 3
    for line in lines:
        assert line["spilled"] <= most, line
        assert line["shared"] <= SHARED_MEMORY[line["architecture"]], line
        assert 0 < line["registers"] <= 128, line


def test_without_a_gpu_the_reason_is_given():
    with pytest.raises(ValueError, match="needs a CUDA device.*TRITON_INTERPRET"):
        linear_cross_entropy(torch.zeros(2, 4), torch.zeros(5, 4), torch.tensor([0, 1]), impl="triton")
