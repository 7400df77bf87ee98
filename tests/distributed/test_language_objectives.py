"""Preferences, policy gradients and unlearning under FSDP2 train what one process trains, from uneven batches."""

import functools

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_losses import DPO, GRPO, KTO, NPO, Objective, PPOValueLoss, RetainNLL
from lightning_losses.modules.policy_gradient_learner import PolicyGradientLearner
from lightning_losses.modules.preference_learner import PreferenceLearner
from lightning_losses.modules.unlearner import Unlearner
from lightning_losses.networks.transformer import Transformer
from lightning_losses.parallel.sharding import is_sharded
from tests.distributed.processes import run_on_processes
from tests.distributed.test_fsdp2 import fsdp2, trainer, weights

pytestmark = pytest.mark.distributed

SGD = functools.partial(torch.optim.SGD, lr=0.5)


class Given(PolicyGradientLearner):
    """Its batches are completions with rewards, not prompts."""

    def training_step(self, batch, batch_idx):
        return self.policy_step(batch)


def learner(kind, **objective):
    torch.manual_seed(0)
    network, reference = (Transformer(11, context_length=12, width=8, depth=2, heads=2) for _ in range(2))
    if kind is Unlearner:
        return kind(network, Objective(objective), reference, optimizer=SGD, impl="chunked")
    options = {"reward": None, "group_size": 2} if kind is Given else {}
    return kind(
        reference, network=network, objective=Objective(objective), optimizer=SGD, impl="chunked", **options
    )  # fmt: skip


KINDS = {
    "pairs": lambda: learner(PreferenceLearner, dpo=DPO(beta=1.0)),
    "single completions": lambda: learner(PreferenceLearner, kto=KTO(beta=1.0)),
    "policy gradient": lambda: learner(Given, grpo=GRPO(beta=0.1)),
    "critic": lambda: learner(Given, ppo=PPOValueLoss()),
    "unlearning": lambda: learner(Unlearner, npo=NPO(beta=1.0), retain=RetainNLL()),
}


def text(width, generator):
    """Six rows, of which the first has next to nothing that counts."""
    tokens = torch.randint(11, (6, width + 1), generator=generator)
    target = tokens[:, 1:].masked_fill(torch.rand(6, width, generator=generator) < 0.4, -100)
    target[0, 1:] = -100
    return {"inputs": tokens[:, :-1], "target": target}


def batches(name, rows):
    """Three batches of the rows of a process."""
    generator, given = torch.Generator().manual_seed(1), []
    for _ in range(3):
        if name in ("policy gradient", "critic"):
            batch = text(8, generator) | {"rewards": torch.rand(6, generator=generator)}
            batch |= {"old_values": torch.rand(6, 8, generator=generator)}
            batch |= {"returns": torch.rand(6, 8, generator=generator)}
            given.append({key: value[rows] for key, value in batch.items()})
            continue
        if name == "single completions":
            completion, desirable = text(8, generator), torch.tensor([True, False, True, True, False, False])
            given.append({"completion": {key: value[rows] for key, value in completion.items()}})
            given[-1]["desirable"] = desirable[rows]
            continue
        parts = ("forget", "retain") if name == "unlearning" else ("chosen", "rejected")
        wholes = {part: text(width, generator) for part, width in zip(parts, (7, 9), strict=True)}
        given.append({part: {key: value[rows] for key, value in whole.items()} for part, whole in wholes.items()})
    return DataLoader(given, batch_size=None)


@pytest.mark.parametrize("name", KINDS)
def test_two_sharded_processes_train_what_one_trains(name, tmp_path):
    def fit():
        module, fitter = KINDS[name](), trainer(tmp_path, 1, fsdp2())
        own = batches(name, (slice(0, 4), slice(4, 6))[fitter.global_rank])
        fitter.fit(module, own, own)
        assert is_sharded(module)
        torch.save(weights(module), tmp_path / f"{fitter.global_rank}.pt")
        # The first process holds the group's store: it stays until the other is done.
        torch.distributed.barrier()

    run_on_processes(fit, 2)
    one = KINDS[name]()
    start = weights(one)
    whole = batches(name, slice(None))
    trainer(tmp_path, 1).fit(one, whole, whole)
    moved = 0.0
    for rank in (0, 1):
        sharded = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for key, value in weights(one).items():
            moved = max(moved, (value - start[key]).abs().max().item())
            torch.testing.assert_close(sharded[key], value, rtol=1e-4, atol=1e-5, msg=f"{rank} {key}")
    assert moved > 0.01


def sampler():
    torch.manual_seed(0)
    network = Transformer(11, context_length=12, width=8, depth=2, heads=2)
    return PolicyGradientLearner(
        network=network, objective=Objective({"grpo": GRPO()}), reward=lambda tokens, mask: (tokens == 3).sum(1) * 1.0,
        group_size=2, max_new_tokens=4, updates=3, optimizer=SGD,
    )  # fmt: skip


def test_samples_that_are_left_are_those_of_each_process_in_a_resumed_run(tmp_path):
    def fit():
        loader = DataLoader([{"prompts": torch.tensor([[1, 2], [3, 4], [5, 6]])}], batch_size=None)
        path, trained = tmp_path / "half.ckpt", []
        # Two of three updates, and then the others; as one run and as two.
        for epochs, saved in ((4, None), (2, None), (4, path)):
            module = sampler()
            fitter = trainer(tmp_path, epochs, fsdp2())
            fitter.fit(module, loader, loader, ckpt_path=saved, weights_only=True)
            if epochs == 2:
                fitter.save_checkpoint(path)
            trained.append(weights(module))
        assert all(torch.equal(value, trained[2][key]) for key, value in trained[0].items())
        assert not torch.equal(trained[0]["network.tokens.weight"], trained[1]["network.tokens.weight"])

    run_on_processes(fit, 2)
