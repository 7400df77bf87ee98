"""The benchmark of the fused heads on a card, rehearsed on the CPU: what fails is a row, and every aim has its row."""

import argparse
import importlib
import json
import time
from dataclasses import replace

import pytest
import torch

from benchmarks.on_cuda import accuracy, further, sweep
from benchmarks.on_cuda.aims import AIMS, verdicts
from benchmarks.on_cuda.measurement import Bench, Entry, measure
from benchmarks.on_cuda.page import page
from benchmarks.on_cuda.run import cases, main, perform

pytestmark = pytest.mark.kernels


def test_every_aim_is_of_entries_that_are_timed():
    entries = {case.name: {entry.name for entry in case.entries} for case in cases(on_card=False, quick=False)}
    assert len(entries) == len(cases(on_card=False, quick=False))
    for aim in AIMS:
        assert aim.entry in entries[aim.case], aim
        assert aim.of in entries[aim.case] | {"floor", "chunk of 2048"}, aim


@pytest.mark.slow
def test_a_rehearsal_writes_the_page_and_its_figures_again(tmp_path, monkeypatch):
    raw = tmp_path / "raw.json"
    arguments = ["--device", "cpu", "--quick", "--only", "ignored", "--out", str(tmp_path), "--json", str(raw)]
    monkeypatch.setattr("sys.argv", ["cuda.py", *arguments])
    main(None)
    written = (tmp_path / "cuda_cpu.md").read_text()
    assert "| ours, drop_ignored=True | " in written
    assert "**beyond**" not in written and written.count("within") == 3
    (case,) = json.loads(raw.read_text())["cases"]
    assert all(entry["ms"] > 0 and entry["bytes"] is None for entry in case["entries"])
    monkeypatch.setattr("sys.argv", ["cuda.py", "--render", str(raw), "--out", str(tmp_path / "again")])
    main(None)
    assert (tmp_path / "again" / "cuda_cpu.md").read_text() == written


@pytest.mark.parametrize(("budget", "said"), [(60, "ValueError: no such head"), (-60, "not run: the time was up")])
def test_what_fails_and_what_there_is_no_time_for_are_rows(budget, said):
    def fails(operands):
        raise ValueError("no such head\nat all | or ever")

    case = next(case for case in cases(on_card=False, quick=True) if case.name == "TF32")
    case = replace(case.rehearsed(), entries=(Entry("fails", fails), *case.entries[:1]))
    bench = Bench(torch.device("cpu"), 2, time.monotonic() + budget)
    record = measure(case, bench, lambda what: None)
    assert [row.get("reason") for row in record["entries"]] == [said, said if budget < 0 else None]
    run = {"machine": {"card": "c", "date": "d", "commit": "e", "quick": True, "versions": {}}}
    assert f"| fails | {said} |" in page(run | {"cases": [record], "accuracy": [], "properties": {}}, {})


def test_an_aim_is_met_at_its_bound_and_not_above():
    entries = [{"name": "plain, float32 logits", "ms": 10.0, "bytes": 100}, {"name": "ours", "ms": 8.0, "bytes": 11}]
    case = {"name": "mean large", "floor_ms": 4.0, "size": {"vocabulary": 1}, "itemsize": 2, "entries": entries}
    found = {(aim.quantity, aim.of): (value, aim.bound) for aim, value in verdicts(case, entries[1])}
    assert found["ms", "plain, float32 logits"] == (0.8, 0.8) and found["ms", "floor"] == (2.0, 1.17)
    assert found["bytes", "plain, float32 logits"][0] == 0.11 and found["ms", "torch.compile of plain"][0] is None


def test_the_time_suffices_for_nothing_and_the_page_is_still_written():
    options = argparse.Namespace(device="cpu", quick=True, only="KD small", budget=-1.0, json=None)
    run = perform(options)
    assert all(entry["reason"].startswith("not run") for case in run["cases"] for entry in case["entries"])
    run["machine"]["versions"] = {}
    assert "0 were met" in page(run, {})


@pytest.mark.parametrize(("left", "seconds"), [(1000.0, 45), (12.5, 13), (-3.0, 1)])
def test_nothing_gets_longer_to_be_ready_than_is_left(monkeypatch, left, seconds):
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    assert Bench(torch.device("cpu"), 2, 100.0 + left).seconds() == seconds


def test_heads_that_are_not_timed_are_near_float64():
    bench = Bench(torch.device("cpu"), 2, time.monotonic() + 100)
    for case in further.cases(accuracy.SIZE):
        (row,) = accuracy.check(case, bench, accuracy.SIZE.rehearsed(), lambda what: None)
        assert row["within"], row


def test_the_sweep_s_warps_are_those_of_its_rows(monkeypatch):
    launched = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *operands, **options: launched.append((options["BLOCK"], options["num_warps"]))

    walk = importlib.import_module("lightning_losses.kernels.cross_entropy.triton_walk")
    monkeypatch.setattr(walk, "cross_entropy_kernel", Kernel())
    monkeypatch.setattr(walk, "INTERPRETED", False)
    asked = [(1024, 8), (2048, 16), (4096, 32), (4096, 4)]
    for block, warps in asked:
        run, _ = sweep.KERNELS["cross-entropy"](2, 5000, torch.device("cpu"), block, warps)
        run()
    assert launched == asked
