"""FSDP2 as trainers use it: what is sharded, where the teacher is, and that a resumed run is an uninterrupted one."""

import os
import pickle

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader

from lightning_losses import KD, ArcFace, CrossEntropy, Objective, linear_margin_loss
from lightning_losses.losses import ELR, FitNetHint
from lightning_losses.mixins import ObjectiveMixin
from lightning_losses.modules import Distiller, OnlineDistiller
from lightning_losses.modules.language_model import LanguageModelDistiller
from lightning_losses.networks.margin_head import MarginHead
from lightning_losses.networks.transformer import Transformer
from lightning_losses.parallel.blocks import Execution
from lightning_losses.parallel.fsdp2 import FSDP2Strategy
from lightning_losses.parallel.sharding import is_sharded
from tests.callbacks.training import Tiny
from tests.distributed.processes import run_on_processes
from tests.parallel.test_sharded_folders import Malicious

pytestmark = pytest.mark.distributed


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.05)


def distiller(student=nn.Identity):
    """A student with class vectors, whose hint has a regressor of its own, and a loss that remembers each sample."""
    torch.manual_seed(0)
    head = MarginHead(9, 3, sub_centers=2, embedding_dim=5)
    return Distiller(
        nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)),
        teacher_layer="1",
        network=nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Sequential(nn.Linear(9, 9), nn.Tanh()), head),
        objective=Objective({"elr": ELR(), "kd": KD(2.0), "hint": FitNetHint()}),
        num_classes=3,
        optimizer=adamw,
        feature_layer="1",
        example_inputs=torch.zeros(2, 4),
    )


def language_model():
    """Tied embeddings, a student that never holds its logits."""
    torch.manual_seed(0)
    student, teacher = (Transformer(11, context_length=8, width=width, depth=2, heads=2) for width in (8, 12))
    return LanguageModelDistiller(
        teacher, network=student, objective=Objective({"ce": CrossEntropy(), "kd": KD()}), optimizer=adamw,
        impl="chunked",
    )  # fmt: skip


class Batches(L.LightningDataModule):
    """Uneven shares of four batches."""

    def __init__(self, kind):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        if kind is language_model:
            tokens = torch.randint(11, (4, 10, 9), generator=generator)
            self.batches = [{"inputs": batch[:, :-1], "target": batch[:, 1:].clone()} for batch in tokens]
            for batch in self.batches:
                batch["target"][:3, :5] = -100
        else:
            inputs = torch.randn(4, 10, 4, generator=generator)
            self.batches = [
                {"inputs": batch, "target": batch[:, :3].argmax(-1), "index": 10 * number + torch.arange(10)}
                for number, batch in enumerate(inputs)
            ]

    def train_dataloader(self):
        world, rank = self.trainer.world_size, self.trainer.global_rank
        rows = slice(None) if world == 1 else (slice(0, 6), slice(6, 10))[rank]
        batches = [{name: tensor[rows] for name, tensor in batch.items()} for batch in self.batches]
        return DataLoader(batches, batch_size=None)

    val_dataloader = train_dataloader


def trainer(folder, epochs, strategy=None, **options):
    chosen = {"devices": 1} if strategy is None else {"devices": 2, "strategy": strategy}
    return L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, use_distributed_sampler=False, default_root_dir=folder, limit_val_batches=0,
        **chosen, **options,
    )  # fmt: skip


def fsdp2(**options):
    return FSDP2Strategy(**{"process_group_backend": "gloo", "min_parameters": 20, **options})


def weights(module):
    return {
        name: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()
        for name, p in module.named_parameters()
    }


def fitted(folder, kind, epochs, strategy=None, ckpt_path=None, save=None, execution=None, **options):
    module, fitter = kind(), trainer(folder, epochs, strategy, **options)
    if execution is not None:
        execution.prepare(module.network)
    fitter.fit(module, Batches(kind), ckpt_path=ckpt_path, weights_only=True)
    if save is not None:
        fitter.save_checkpoint(save)
    return module


def pickled(content, path):
    path.write_bytes(pickle.dumps(content))


def class_vectors_are_gathered(weight):
    """Where a loss takes them outside of the head's forward pass."""
    whole = weight.full_tensor().detach().requires_grad_()
    embeddings, target = torch.linspace(-1, 1, 20).view(4, 5), torch.tensor([0, 2, 1, 0])
    slopes = [
        torch.autograd.grad(linear_margin_loss(ArcFace(), embeddings, vectors, target, sub_centers=2), vectors)[0]
        for vectors in (weight, whole)
    ]
    torch.testing.assert_close(slopes[0].full_tensor(), slopes[1])


KINDS = {"distiller": distiller, "language_model": language_model}


@pytest.mark.parametrize("name", KINDS)
def test_every_way_of_sharding_trains_what_one_process_trains_and_resumes_exactly(name, tmp_path):
    kind = KINDS[name]
    ways = {
        "plain": ({}, None),
        "teacher": ({"teacher": "sharded"}, None),
        "offload": ({"cpu_offload": True}, None),
        "recompute": ({}, Execution(activation_checkpointing=True)),
        "kept": ({"reshard_after_forward": False}, None),
    }

    def fit():
        found = {}
        for way, (options, execution) in ways.items():
            module = fitted(tmp_path, kind, 2, fsdp2(**options), execution=execution)
            assert is_sharded(module) and is_sharded(module.teacher) == (way == "teacher")
            assert all(hasattr(parameter, "full_tensor") for parameter in module.parameters())
            found[way] = weights(module)
            if kind is distiller:
                class_vectors_are_gathered(module.network[-1].weight)
        clipped = fitted(tmp_path, kind, 2, fsdp2(), gradient_clip_val=0.05)
        found["clipped"] = weights(clipped)
        for shards in (False, True):
            options = {"save_distributed_checkpoint": shards, "teacher": "sharded"}
            path = tmp_path / f"half{shards}.ckpt"
            fitted(tmp_path, kind, 1, fsdp2(**options), save=path)
            assert path.is_dir() == shards
            found[f"resumed{shards}"] = weights(fitted(tmp_path, kind, 2, fsdp2(**options), ckpt_path=path))
        # One that Lightning or torch would unpickle.
        for name in ("meta.pt", ".metadata"):
            # The other process may still be reading what was there.
            torch.distributed.barrier()
            if torch.distributed.get_rank() == 0:
                # Who can change a file can take its digest away.
                (path / "digests.sha256").unlink(missing_ok=True)
                (torch.save if name == "meta.pt" else pickled)(Malicious(tmp_path / "attacked"), path / name)
            torch.distributed.barrier()
            with pytest.raises(ValueError, match="was refused, because it holds Python objects"):
                fitted(tmp_path, kind, 2, fsdp2(**options), ckpt_path=path)
            assert not (tmp_path / "attacked").exists()
        torch.save(found, tmp_path / f"{torch.distributed.get_rank()}.pt")
        # The first process holds the group's store: it stays until the other is done.
        torch.distributed.barrier()

    run_on_processes(fit, 2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    one, clipped = weights(fitted(tmp_path, kind, 2)), weights(fitted(tmp_path, kind, 2, gradient_clip_val=0.05))
    start = weights(kind())
    for way, found in first.items():
        for key, value in (clipped if way == "clipped" else one).items():
            assert torch.equal(found[key], second[way][key])
            assert (value - start[key]).abs().max() > 0.02
            # Adam divides by the root of small second moments, which amplifies the last bits of sums in another order.
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-3, msg=f"{way} {key}")
    for way in ("resumedFalse", "resumedTrue"):
        # The same sums in the same order: to the bit.
        assert all(torch.equal(first[way][key], value) for key, value in first["teacher"].items()), way

    # The full checkpoint is that of a module on one process, without its teacher.
    full = torch.load(tmp_path / "halfFalse.ckpt", weights_only=True)
    assert full["state_dict"].keys() == kind().state_dict().keys()
    assert not any("teacher" in key for key in full["state_dict"])
    alone = fitted(tmp_path, kind, 2, ckpt_path=tmp_path / "halfFalse.ckpt")
    for key, value in weights(alone).items():
        torch.testing.assert_close(value, one[key], rtol=1e-3, atol=1e-3)


class SavesTheStart(L.Callback):
    def __init__(self, path):
        self.path = path

    def on_train_start(self, trainer, module):
        trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("shards", [False, True])
def test_a_run_resumes_exactly_from_a_checkpoint_of_its_start(tmp_path, shards):
    def make():
        module = distiller()
        # The momentum of a first step is its gradient; torch saves the state of a step with no gradient but the decay.
        module.make_optimizer = lambda parameters: torch.optim.SGD(
            parameters, lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.1
        )
        return module

    def fit():
        path, found = tmp_path / "start.ckpt", []
        for saved, options in ((None, {"callbacks": [SavesTheStart(path)]}), (path, {})):
            module = make()
            fitter = trainer(tmp_path, 1, fsdp2(save_distributed_checkpoint=shards), **options)
            fitter.fit(module, Batches(distiller), ckpt_path=saved, weights_only=True)
            found.append(weights(module))
        assert path.is_dir() == shards
        assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())

    run_on_processes(fit, 2)


# Of torch, while it looks at parameters that FSDP2 has gathered.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")
def test_compiled_blocks_train_alike(tmp_path):
    # "aot_eager" traces forward and backward as inductor does, and generates no code.
    def fit():
        found = [
            weights(fitted(tmp_path, language_model, 1, fsdp2(blocks=["Block"]), execution=execution))
            for execution in (None, Execution(blocks=["Block"], compile="aot_eager", activation_checkpointing=True))
        ]
        for key, value in found[0].items():
            # A compiled block may fuse sums.
            torch.testing.assert_close(found[1][key], value, rtol=1e-3, atol=1e-3)

    run_on_processes(fit, 2)


def peers():
    """A student between two peers, which a list holds."""
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3)) for width in (5, 6, 7)]
    mutual = Objective({"ce": CrossEntropy(), "kd": KD(1.0)})
    return OnlineDistiller(
        network=networks[0], peers=networks[1:], objective=mutual, peer_objective=mutual, num_classes=3, optimizer=adamw
    )


def test_peers_in_a_list_train_what_one_process_trains_and_what_fsdp2_would_leave_alone_is_refused(tmp_path):
    class Direct(Distiller):
        def __init__(self, **more):
            super().__init__(network=nn.Linear(4, 3), objective=Objective({"ce": CrossEntropy()}), num_classes=3)
            for name, value in more.items():
                setattr(self, name, value)

    class Plain(Tiny):
        """One that knows no mixin, and a loss without shapes."""

        configure_model = L.LightningModule.configure_model

        def __init__(self):
            super().__init__()
            self.loss = FitNetHint()

    class Mixed(ObjectiveMixin, Plain):
        pass

    parameter = nn.Parameter(torch.ones(1))
    unknown = "isn't known before the first batch, and several processes need it before; give the loss its sizes"
    refused = [
        (lambda: Direct(scale=parameter), "fsdp: the parameter scale belongs to Direct itself", fsdp2),
        (lambda: Direct(scales=nn.ParameterList([parameter])), "fsdp: scales is a ParameterList, which no call", fsdp2),
        (Plain, f"fsdp: the shape of loss.regressor.weight {unknown}", fsdp2),
        (Mixed, f"Mixed: the shape of loss.regressor.weight {unknown}", DDPStrategy),
    ]

    def fit():
        torch.save(weights(fitted(tmp_path, peers, 1, fsdp2())), tmp_path / f"{os.environ['RANK']}.pt")
        for make, message, strategy in refused:
            with pytest.raises(ValueError, match=message):
                trainer(tmp_path, 1, strategy(process_group_backend="gloo")).fit(make(), Batches(distiller))
        with pytest.raises(ValueError, match=r"blocks: Distiller has no Bloc; it consists of .*Linear"):
            trainer(tmp_path, 1, fsdp2(blocks=["Bloc"])).fit(distiller(), Batches(distiller))

    run_on_processes(fit, 2)
    one = weights(fitted(tmp_path, peers, 1))
    assert any(name.startswith("peers.1.") for name in one)
    for rank in (0, 1):
        for name, value in torch.load(tmp_path / f"{rank}.pt", weights_only=True).items():
            torch.testing.assert_close(value, one[name], rtol=1e-3, atol=1e-3)


def test_an_unknown_place_of_the_teacher_is_refused():
    with pytest.raises(ValueError, match="fsdp: teacher='host' came; choose one of 'replicated'"):
        FSDP2Strategy(teacher="host")
