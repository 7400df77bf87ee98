"""The trainers of conf/trainer: what they train, what they refuse, and what would be submitted to SLURM."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from lightning_losses.experiments.config.check_config import check_environment, check_trainer, runs_again
from lightning_losses.experiments.config.instantiate import ConfigError
from lightning_losses.recipes.train import main
from tests.distributed.processes import run_on_processes
from tests.recipes.conftest import composed

ROOT = Path(__file__).parents[2]
ON_TWO = {
    "shards": ["trainer=fsdp_offload", "trainer.devices=2", "trainer.strategy.save_distributed_checkpoint=true",
               "trainer.strategy.teacher=sharded", "execution.activation_checkpointing=true", "weights=best"],
    "slurm": ["trainer=slurm"],
}  # fmt: skip


def under_slurm():
    """What srun tells each of two processes."""
    rank = os.environ["RANK"]
    for name in ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "GROUP_RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        del os.environ[name]
    os.environ.update(
        SLURM_NTASKS="2", SLURM_NTASKS_PER_NODE="2", SLURM_JOB_NUM_NODES="1", SLURM_PROCID=rank, SLURM_LOCALID=rank,
        SLURM_NODEID="0", SLURM_JOB_ID="7", SLURM_JOB_NAME="train", SLURM_NODELIST="127.0.0.1",
    )  # fmt: skip


@pytest.mark.distributed
@pytest.mark.parametrize("name", ON_TWO)
def test_two_processes_train_what_one_trains(name, run, tmp_path):
    common = ["modules.baseline=null", "objective=sinkd", "trainer.accelerator=cpu", "logger=none"]
    weights = "best" if name == "shards" else "last"
    one = run(*common, f"weights={weights}", f"cache={tmp_path / 'one'}")

    def train():
        if name == "slurm":
            under_slurm()
        cache, folder = tmp_path / "two", tmp_path / name
        report = run(*common, *ON_TWO[name], f"cache={cache}", folder=folder)
        # The first process reports, the others leave.
        if report is not None:
            found = [(item.logits, item.trained.history["val/loss"]) for item in report.evaluations]
            torch.save(found, tmp_path / "found.pt")

    run_on_processes(train, 2)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert len(found) == len(one.evaluations) == 2
    assert (tmp_path / name / "checkpoints" / "student" / "last.ckpt").is_dir() == (name == "shards")
    for (logits, losses), single in zip(found, one.evaluations, strict=True):
        # Sums in another order, in float32, through six steps of Adam, which divides by small second moments.
        torch.testing.assert_close(logits, single.logits, rtol=1e-2, atol=1e-3)
        assert losses == pytest.approx(single.trained.history["val/loss"], rel=1e-3)


def test_fsdp1_is_refused():
    for strategy in ("fsdp", "fsdp_cpu_offload"):
        with pytest.raises(ConfigError, match=f"strategy={strategy}: this is FSDP1, .* use trainer=fsdp"):
            check_trainer(composed(f"trainer.strategy={strategy}").trainer)
    written = OmegaConf.create({"strategy": {"_target_": "lightning.pytorch.strategies.FSDPStrategy"}})
    with pytest.raises(ConfigError, match="this is FSDP1"):
        check_trainer(written)


@pytest.mark.parametrize(("trainer", "again"), [
    ("default", False), ("ddp_fork", False), ("full_batch", False), ("ddp", True), ("fsdp", True),
    ("fsdp_offload", True),
])  # fmt: skip
def test_a_sweep_is_refused_where_each_process_would_begin_it_anew(trainer, again, monkeypatch):
    config = composed(f"trainer={trainer}").trainer
    check_trainer(config)
    assert runs_again(config) == again
    if again:
        with pytest.raises(ConfigError, match=r"with -m \(--multirun\).*use trainer=ddp_fork"):
            check_trainer(config, sweeping=True)
        # There srun starts the processes.
        monkeypatch.setenv("SLURM_NTASKS", "2")
    check_trainer(config, sweeping=True)


def test_slurm_outside_of_a_job_is_refused(monkeypatch):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    for trainer in ("slurm", "slurm_fsdp"):
        with pytest.raises(ConfigError, match="trainer=slurm: this is no process of a SLURM job; start .* by srun"):
            check_environment(composed(f"trainer={trainer}").trainer)
    check_environment(composed("trainer=ddp").trainer)


@pytest.fixture
def dry(monkeypatch):
    """The stand-ins for SLURM's commands."""
    folder = ROOT / "recipes" / "slurm" / "dry_run"
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.filterwarnings("ignore:The `srun` command is available on your system but is not used")
def test_a_sweep_on_slurm_submits_one_array_of_jobs(dry, monkeypatch, tmp_path, capfd):
    arguments = [
        "-m", "hydra/launcher=submitit_slurm", "hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=8",
        "hydra.launcher.gpus_per_node=8", "hydra.launcher.timeout_min=90", "trainer=slurm", "seed=0,1,2",
        "data=digits", "modules.teacher=null", "modules.baseline=null", "objective=ce", "logger=none",
        f"output={tmp_path}",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["recipes/train.py", *arguments])
    with pytest.raises(SystemExit):
        main()
    printed = capfd.readouterr().err
    assert "Dry run: nothing was submitted." in printed
    for line in ("--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--time=90", "--array=0-2%3"):
        assert f"#SBATCH {line}" in printed
    assert "srun" in printed and "submitit.core._submit" in printed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["experiment=classify"], "hydra.run.dir=outputs/slurm/7 logger=csv experiment=classify"),
        (["resume=outputs/slurm/3", "seed=1"], "logger=csv resume=outputs/slurm/3 seed=1"),
    ],
    ids=["new", "resumed"],
)
def test_a_job_starts_every_process_in_one_folder(dry, words, line):
    script = ROOT / "recipes" / "slurm" / "train.sbatch"
    environment = {**os.environ, "SLURM_JOB_ID": "7"}
    result = subprocess.run(["bash", script, *words], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == f"python recipes/train.py trainer=slurm {line}\n"
