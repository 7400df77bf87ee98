"""Makes golden cases by running the authors' own code, from a checkout of their repository.

    git clone https://github.com/3mcloud/adafocal && git -C adafocal checkout f2c6ca0
    python -m tests.golden.make_cases adafocal adafocal/losses/adafocal.py

    git clone https://github.com/wannature/COMIC && git -C COMIC checkout 1de14e5
    python -m tests.golden.make_cases reflective_label_corrector COMIC/loss/ReflectiveLabelCorrectorLoss.py

    git clone https://github.com/zhaoshiji123/MTARD-extension && git -C MTARD-extension checkout 93506d6
    python -m tests.golden.make_cases mtard_balance MTARD-extension/resnet18_mtard_cifar10.py

    git clone https://github.com/Bai-YT/AdaptiveSmoothing && git -C AdaptiveSmoothing checkout 51f0198
    python -m tests.golden.make_cases adaptive_smoothing_loss AdaptiveSmoothing/adaptive_smoothing/losses.py
    python -m tests.golden.make_cases adaptive_smoothing AdaptiveSmoothing/models/comp_model.py

Each writes the case's .npz file; what the file holds is in the manifest beside it. docs/golden_cases.md tells how the
other cases were made.
"""

import ast
import runpy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

HERE = Path(__file__).parent


def adafocal(source: Path) -> dict[str, Tensor]:
    """Three updates of the exponents by given gaps, then the summed loss with its gradient."""
    generator = torch.Generator().manual_seed(0)
    bins, edges = 5, torch.tensor([0.2, 0.35, 0.5, 0.75], dtype=torch.float64)
    gaps = torch.randn(3, bins, dtype=torch.float64, generator=generator)
    logits = (2 * torch.randn(12, 4, dtype=torch.float64, generator=generator)).requires_grad_()
    target = torch.randint(4, (12,), generator=generator)
    # Their tensor of exponents takes torch's default dtype.
    torch.set_default_dtype(torch.float64)
    with tempfile.TemporaryDirectory() as folder:
        settings = SimpleNamespace(
            num_bins=bins, adafocal_lambda=1.0, adafocal_gamma_initial=1.0, adafocal_switch_pt=0.2,
            adafocal_gamma_max=20.0, adafocal_gamma_min=-2.0, update_gamma_every=1, save_path=folder,
        )  # fmt: skip
        loss = runpy.run_path(str(source))["AdaFocal"](settings, device="cpu")
        bounds = [0.0, *edges.tolist(), 1.0]
        gammas = []
        for step in gaps.tolist():
            loss.update_bin_stats(
                {
                    place: {
                        "calibration_gap": step[place],
                        "lower_bound": bounds[place],
                        "upper_bound": bounds[place + 1],
                    }
                    for place in range(bins)
                }
            )
            gammas.append([loss.bin_stats[place]["gamma"] for place in range(bins)])
    value = loss(logits, target)
    value.backward()
    assert logits.grad is not None
    return {
        "logits": logits.detach(),
        "target": target,
        "edges": edges,
        "gaps": gaps,
        "gammas": torch.tensor(gammas),
        "loss": value.detach(),
        "grad_logits": logits.grad,
    }


def reflective_label_corrector(source: Path) -> dict[str, Tensor]:
    """Four batches, of epochs 0, 1, 1 and 2, on the CPU; before its first epoch the loss is 0."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4, 6, 4, dtype=torch.float64, generator=generator)
    multi_hot = (torch.rand(4, 6, 4, generator=generator) < 0.3).long()
    class_counts, epochs = torch.tensor([40, 12, 5, 3]), torch.tensor([0, 1, 1, 2])
    trace: dict[str, list[Tensor]] = {"loss": [], "grad_logits": [], "counts": []}
    with tempfile.NamedTemporaryFile("w") as file, mock.patch.object(Tensor, "cuda", lambda tensor: tensor):
        file.write(",".join(map(str, class_counts.tolist())))
        file.flush()
        kind = runpy.run_path(str(source))["ReflectiveLabelCorrectorLoss"]
        loss = kind(batch_size=6, distribution_path=file.name)
        for scores, labels, epoch in zip(logits, multi_hot, epochs.tolist(), strict=True):
            leaf = scores.clone().requires_grad_()
            value = loss(leaf, labels, epoch=epoch)
            if isinstance(value, Tensor):
                value.backward()
            trace["loss"].append(torch.as_tensor(value, dtype=torch.float64).detach())
            trace["grad_logits"].append(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
            trace["counts"].append(loss.distribution.clone())
    inputs = {"logits": logits, "multi_hot": multi_hot, "class_counts": class_counts, "epoch": epochs}
    return inputs | {name: torch.stack(values) for name, values in trace.items()}


def mtard_balance(source: Path) -> dict[str, Tensor]:
    """Six steps of the training loop on drawn logits in place of the networks' own."""
    generator = torch.Generator().manual_seed(0)
    names = ("student_adv_logits", "teacher_adv_logits", "student_nat_logits", "teacher_nat_logits")
    inputs = {name: 2 * torch.randn(6, 4, 5, dtype=torch.float64, generator=generator) for name in names}
    module = ast.parse(source.read_text())
    settings = ("weight", "init_loss_nat", "init_loss_adv", "weight_learn_rate", "temp_learn_rate")
    settings += ("temp_adv", "temp_nat", "temp_max", "temp_min")
    before = [node for node in module.body if isinstance(node, ast.FunctionDef) or _assigns(node, settings)]
    (epochs,) = (node for node in module.body if isinstance(node, ast.For))
    (steps,) = (node for node in epochs.body if isinstance(node, ast.For) and "trainloader" in ast.unparse(node.iter))
    first = next(place for place, node in enumerate(steps.body) if _assigns(node, ("kl_Loss1",)))
    last = next(place for place, node in enumerate(steps.body) if _assigns(node, ("total_loss",)))
    scope: dict[str, object] = {"torch": torch, "F": F}
    exec(compile(ast.Module(before, []), str(source), "exec"), scope)
    body = compile(ast.Module(steps.body[first : last + 1], []), str(source), "exec")
    trace: dict[str, list[Tensor]] = {}
    for step in range(6):
        leaves = {name: tensor[step].clone().requires_grad_("student" in name) for name, tensor in inputs.items()}
        scope |= leaves
        exec(body, scope)
        total, weights = scope["total_loss"], scope["weight"]
        assert isinstance(total, Tensor) and isinstance(weights, dict)
        total.backward()
        kept = {
            "temp_adv": scope["temp_adv"], "temp_nat": scope["temp_nat"],
            "w_adv": weights["adv_loss"], "w_nat": weights["nat_loss"],
            "loss": total, "kl_adv": scope["kl_Loss1"], "kl_nat": scope["kl_Loss2"],
            "grad_student_adv_logits": leaves["student_adv_logits"].grad,
            "grad_student_nat_logits": leaves["student_nat_logits"].grad,
        }  # fmt: skip
        for name, value in kept.items():
            trace.setdefault(name, []).append(torch.as_tensor(value, dtype=torch.float64).detach())
    return inputs | {name: torch.stack(values) for name, values in trace.items()}


def adaptive_smoothing_loss(source: Path) -> dict[str, Tensor]:
    """The loss of a gate by the authors' weights for CIFAR-10, with its gradients."""
    generator = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(8, 5, dtype=torch.float64, generator=generator)).requires_grad_()
    gate_logits = (2 * torch.randn(8, dtype=torch.float64, generator=generator)).requires_grad_()
    target, gate_target = torch.randint(5, (8,), generator=generator), (torch.arange(8) % 2).double()
    loss = runpy.run_path(str(source))["CompLoss"]({"bce": 1.0, "ce": 0.5, "prod": 0.1})
    value = loss(logits, target, gate_logits, gate_target)
    value.backward()
    assert logits.grad is not None and gate_logits.grad is not None
    return {
        **{"logits": logits.detach(), "target": target},
        **{"gate_logits": gate_logits.detach(), "gate_target": gate_target, "loss": value.detach()},
        **{"grad_logits": logits.grad, "grad_gate_logits": gate_logits.grad},
    }


def adaptive_smoothing(source: Path) -> dict[str, Tensor]:
    """The mixture of given logits in training and then in evaluation, with a gate that gives what it is told."""
    generator = torch.Generator().manual_seed(0)
    accurate, robust = (2 * torch.randn(2, 7, 5, dtype=torch.float64, generator=generator)).unbind()
    scores = torch.randn(7, 1, dtype=torch.float64, generator=generator)

    class Given(nn.Module):
        def __init__(self, value: Tensor) -> None:
            super().__init__()
            self.value = value

        def forward(self, inputs: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            return self.value, (self.value, self.value)

    class Gate(nn.Module):
        def __init__(self, settings: object) -> None:
            super().__init__()

        def forward(self, first: object, second: object) -> Tensor:
            return scores

    stub = SimpleNamespace(MixingNetV3=Gate, MixingNetV4=Gate)
    settings = {
        "policy_graph": True, "pn_version": 3, "parallel": 1, "std_model_type": "small", "use_policy": True,
        "gamma": 0.0, "alpha_scale": 0.75, "alpha_bias": 0.2, "std_scale": 1.5, "rob_scale": 0.8,
    }  # fmt: skip
    with mock.patch.dict(sys.modules, {"models": stub, "models.mixing_net": stub}):
        model = runpy.run_path(str(source))["CompositeModel"]([Given(accurate), Given(robust)], settings)
    model = model.double()
    model.set_gamma_scale_bias(2.0, 0.5)
    trained, gate = model.train()(torch.zeros(7, 1))
    evaluated, _ = model.eval()(torch.zeros(7, 1))
    outputs = {"trained": trained.detach(), "gate_logits": gate.detach(), "evaluated": evaluated.detach()}
    scales = {"accurate_scale": model.std_scale, "robust_scale": model.rob_scale}
    limits = {"least": model.alpha_bias, "width": model.alpha_scale}
    # Their settings are kept in float32.
    kept = {name: number.detach().double() for name, number in {**scales, **limits}.items()}
    return {"accurate": accurate, "robust": robust, "scores": scores, **kept, **outputs}


def _assigns(node: ast.stmt, names: tuple[str, ...]) -> bool:
    """Whether a statement gives one of these names its value."""
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in names


CASES: dict[str, tuple[Callable[[Path], dict[str, Tensor]], str]] = {
    "adafocal": (adafocal, "calibration_grokking/adafocal.npz"),
    "reflective_label_corrector": (reflective_label_corrector, "sample_states/reflective_label_corrector.npz"),
    "mtard_balance": (mtard_balance, "distillation/mtard_trace.npz"),
    "adaptive_smoothing_loss": (adaptive_smoothing_loss, "robustness/adaptive_smoothing_loss.npz"),
    "adaptive_smoothing": (adaptive_smoothing, "robustness/adaptive_smoothing.npz"),
}


def main() -> None:
    """Make one case."""
    if len(sys.argv) != 3 or sys.argv[1] not in CASES:
        sys.exit(f"Give a case, {' or '.join(CASES)}, and the file of the authors' repository that it runs.\n{__doc__}")
    make, file = CASES[sys.argv[1]]
    np.savez(HERE / file, **{name: tensor.numpy() for name, tensor in make(Path(sys.argv[2])).items()})


if __name__ == "__main__":
    main()
