"""All processes take the same branch, and wait for nobody where weights are sharded."""

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from lightning_losses import GeneralizedJSD, Objective
from lightning_losses.modules.on_policy_distiller import OnPolicyDistiller
from lightning_losses.networks.transformer import Transformer
from lightning_losses.parallel.processes import values_of_all
from lightning_losses.parallel.sharding import is_sharded
from tests.distributed.processes import run_on_processes
from tests.distributed.test_fsdp2 import fsdp2, trainer

pytestmark = pytest.mark.distributed


class Watched(OnPolicyDistiller):
    def on_policy_batch(self, batch, batch_idx):
        given = super().on_policy_batch(batch, batch_idx)
        self.own.append(torch.equal(given["inputs"], batch["inputs"]))
        self.drawn.append(given["inputs"])
        return given


def module():
    torch.manual_seed(0)
    student, teacher = (Transformer(11, context_length=12, width=width, depth=2, heads=2) for width in (8, 12))
    watched = Watched(
        teacher, network=student, objective=Objective({"jsd": GeneralizedJSD()}), prompt_length=3, max_new_tokens=5,
        stop_token=2, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    )  # fmt: skip
    watched.own, watched.drawn = [], []
    return watched


def compare(folder, strategy):
    watched, fitter = module(), trainer(folder, 2, strategy)
    # The same rows on all processes, of which each draws its own completions.
    tokens = torch.randint(11, (6, 2 if fitter.global_rank else 4, 9), generator=torch.Generator().manual_seed(1))
    loader = DataLoader([{"inputs": rows[:, :-1], "target": rows[:, 1:]} for rows in tokens], batch_size=None)
    fitter.fit(watched, loader, loader)
    assert is_sharded(watched) == (not isinstance(strategy, DDPStrategy))
    first, second = values_of_all(watched.own)
    assert first == second and len(set(first)) == 2
    drawn = values_of_all([each[:2].tolist() for each in watched.drawn])
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_all_processes_take_the_same_branch(name, tmp_path):
    strategy = DDPStrategy(process_group_backend="gloo") if name == "ddp" else fsdp2()
    run_on_processes(compare, 2, tmp_path, strategy)
