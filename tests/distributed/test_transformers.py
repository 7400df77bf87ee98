"""Networks of transformers have on two processes the gradients of one, with adapters and without."""

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from lightning_losses import KD, CrossEntropy, LanguageModel, LanguageModelDistiller, Objective
from lightning_losses.parallel.fsdp2 import FSDP2Strategy
from lightning_losses.parallel.sharding import is_sharded
from tests.distributed.processes import run_on_processes
from tests.modules.test_transformers import VOCABULARY, adapted, build

pytestmark = pytest.mark.distributed

STRATEGIES = {
    "ddp": lambda: DDPStrategy(start_method="popen", process_group_backend="gloo"),
    "fsdp2": lambda: FSDP2Strategy(process_group_backend="gloo", min_parameters=20),
}


class Noting:
    """Keeps the gradients of every step, whole."""

    def on_before_optimizer_step(self, optimizer):
        self.noted = getattr(self, "noted", [])
        self.noted.append(
            {
                name: (p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad).clone()
                for name, p in self.named_parameters()
                if p.grad is not None
            }
        )


class Plain(Noting, LanguageModel):
    pass


class Taught(Noting, LanguageModelDistiller):
    pass


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def plain():
    """The head's weight is the embedding's."""
    return Plain(network=build("GPT2LMHeadModel"), objective=Objective({"ce": CrossEntropy()}), optimizer=sgd)


def lora():
    """Adapters on a layer and on the head; the rest is frozen."""
    network = adapted({"target_modules": ["q_proj", "lm_head"]}, tie_word_embeddings=False)
    return Plain(network=network, objective=Objective({"ce": CrossEntropy()}), optimizer=sgd)


def taught():
    """By another network of transformers, whose head is scaled."""
    objective = Objective({"ce": CrossEntropy(), "kd": KD(2.0)})
    return Taught(build("GraniteForCausalLM"), network=build("LlamaForCausalLM"), objective=objective, optimizer=sgd)


KINDS = {"plain": plain, "lora": lora, "taught": taught}


class Batches(L.LightningDataModule):
    """Two batches, of which the processes have uneven shares, with rows of uneven length."""

    def train_dataloader(self):
        rows = slice(None) if self.trainer.world_size == 1 else (slice(0, 3), slice(3, 5))[self.trainer.global_rank]
        ids = torch.randint(3, VOCABULARY, (2, 5, 8), generator=torch.Generator().manual_seed(3))
        mask = torch.ones_like(ids)
        for row, length in enumerate((8, 3, 5, 7, 4)):
            mask[:, row, length:] = 0
        labels = ids.masked_fill(mask == 0, -100)
        named = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        return DataLoader([{k: v[step, rows] for k, v in named.items()} for step in range(2)], batch_size=None)

    val_dataloader = train_dataloader


def fitted(kind, folder, strategy=None):
    module = KINDS[kind]().train()
    # Each process would draw dropout for itself.
    for part in module.network.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    options = {"devices": 1} if strategy is None else {"devices": 2, "strategy": STRATEGIES[strategy]()}
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, use_distributed_sampler=False, default_root_dir=folder, limit_val_batches=0,
        **options,
    )  # fmt: skip
    trainer.fit(module, Batches())
    assert is_sharded(module) == (strategy == "fsdp2")
    return module


def test_two_processes_have_the_gradients_of_one(tmp_path):
    def on_both():
        noted = {(kind, strategy): fitted(kind, tmp_path, strategy).noted for kind in KINDS for strategy in STRATEGIES}
        if torch.distributed.get_rank() == 0:
            torch.save(noted, tmp_path / "noted.pt")
        torch.distributed.barrier()

    run_on_processes(on_both, 2)
    noted = torch.load(tmp_path / "noted.pt", weights_only=True)
    for kind in KINDS:
        alone = fitted(kind, tmp_path)
        assert len(alone.noted) == 2 and all(gradient.abs().max() > 1e-4 for gradient in alone.noted[0].values())
        assert kind != "lora" or all("lora" in name for name in alone.noted[0])
        for strategy in STRATEGIES:
            for several, one in zip(noted[kind, strategy], alone.noted, strict=True):
                assert several.keys() == one.keys()
                for name, gradient in one.items():
                    torch.testing.assert_close(
                        several[name], gradient, rtol=1e-3, atol=1e-5,
                        msg=lambda text, at=(kind, strategy, name): f"{at}: {text}",
                    )  # fmt: skip
