"""deterministic=true: a run on a GPU is equal to the bit, resumed or not."""

import os
from unittest.mock import patch

import pytest
import torch

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.launch import fix_workspaces
from lightning_losses.experiments.training import training
from lightning_losses.recipes.train import main
from tests.recipes.conftest import SHORT, composed, student_weights
from tests.recipes.test_language_model import SHORT as SHORT_TEXT
from tests.recipes.test_resume import ALONE

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture(autouse=True)
def as_it_was():
    with patch.dict(os.environ):
        if not torch.cuda.is_initialized():
            os.environ.pop(WORKSPACE, None)
        yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_switch_sets_algorithms_and_workspaces_before_the_first_step(deterministic, cache, tmp_path, monkeypatch):
    set_to = []

    def step(*_):
        set_to.append(os.environ.get(WORKSPACE))
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "rehearse_step", step)
    with pytest.raises(SystemExit):
        words = ["experiment=classify", f"deterministic={str(deterministic).lower()}", f"cache={cache}"]
        main([*SHORT[:-1], *words, f"hydra.run.dir={tmp_path}"])
    assert set_to == [":4096:8" if deterministic else None]


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_run_is_by_deterministic_algorithms_where_it_is_told(deterministic, run, monkeypatch):
    seen = []
    fit = training.L.Trainer.fit

    def noted(*arguments, **options):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return fit(*arguments, **options)

    monkeypatch.setattr(training.L.Trainer, "fit", noted)
    run("experiment=classify", f"deterministic={str(deterministic).lower()}", "trainer.max_epochs=1", short=SHORT[:-1])
    assert seen == [deterministic]


def test_cuda_that_has_started_otherwise_is_refused(monkeypatch):
    monkeypatch.delenv(WORKSPACE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    fix_workspaces(composed(*SHORT))
    with pytest.raises(ConfigError, match="deterministic=true: CUDA has started"):
        fix_workspaces(composed(*SHORT, "deterministic=true"))


@pytest.mark.cuda
@pytest.mark.parametrize("objective", ["nkd", "uskd", "sinkd"])
def test_a_run_on_a_gpu_resumes_to_the_bit(objective, run, interrupt, tmp_path):
    words = [*ALONE, f"objective={objective}", "deterministic=true"]
    whole = run(*words, folder=tmp_path / "whole")
    interrupt(4)
    folder = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        run(*words, folder=folder)
    resumed = run(*words, f"resume={folder}", folder=folder)
    for name, value in student_weights(tmp_path / "whole")["state_dict"].items():
        assert torch.equal(value, student_weights(folder)["state_dict"][name]), name
    assert resumed.evaluations[-1].trained.history == whole.evaluations[-1].trained.history
    assert torch.equal(resumed.evaluations[-1].logits, whole.evaluations[-1].logits)


@pytest.mark.cuda
@pytest.mark.parametrize("impl", ["triton", "chunked"])
def test_a_language_model_on_a_gpu_is_equal_to_the_bit(impl, run, tmp_path):
    words = ["experiment=language_model", f"impl={impl}", "deterministic=true"]
    once, again = (run(*words, folder=tmp_path / name, short=SHORT_TEXT).networks[-1] for name in ("once", "again"))
    assert once.trained.history["train/loss"] == again.trained.history["train/loss"]
    for name, value in once.trained.network.state_dict().items():
        assert torch.equal(value, again.trained.network.state_dict()[name]), name
