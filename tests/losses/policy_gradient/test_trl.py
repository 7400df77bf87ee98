"""Every method that TRL has, against TRL itself, in float64: values, gradients and the shares that are clipped.

TRL's trainers are not built, for that takes a model and a data set: their methods are called with what they read of
them.
"""

import importlib
import warnings
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from lightning_losses.losses import CISPO, GRPO, GSPO, LUSPO, RLOO, SAPO, VESPO
from tests.losses.examples import with_gradients
from tests.losses.policy_gradient.batches import batch

pytest.importorskip("trl")
SAMPLED = {"importance_sampling_ratio": "sampling_ratio"}
SHARES = {"clip_low": "low_mean", "clip_high": "high_mean", "clip_region": "region_mean"}


def trainer_of(name, logps, entropies, **settings):
    """A trainer of TRL with the attributes that its loss reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = getattr(importlib.import_module(f"trl.trainer.{name.lower()}_trainer"), f"{name}Trainer")
    trainer = object.__new__(kind)
    same = {key: lambda value, *_, **__: value for key in ("gather", "gather_for_metrics", "reduce",
                                                           "pad_across_processes")}  # fmt: skip
    arguments = {
        "delta": None, "use_bias_correction_kl": False, "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05,
        "vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0,
        "steps_per_generation": 1,
    }  # fmt: skip
    attributes = {
        "aux_loss_enabled": False, "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None,
        "importance_sampling_level": "token", "beta": 0.0, "loss_type": "grpo", "epsilon_low": 0.2, "epsilon_high": 0.2,
        "use_vllm": False, "vllm_importance_sampling_correction": True, "current_gradient_accumulation_steps": 1,
        "max_completion_length": 7, "_entropy_bonus_enabled": False, "use_adaptive_entropy": False, "entropy_coef": 0.0,
    }  # fmt: skip
    assert settings.keys() <= arguments.keys() | attributes.keys()
    vars(trainer).update({key: settings.get(key, value) for key, value in attributes.items()})
    trainer.args = SimpleNamespace(**{key: settings.get(key, value) for key, value in arguments.items()})
    trainer.accelerator = SimpleNamespace(num_processes=1, sync_gradients=True, **same)
    trainer.model = SimpleNamespace(training=True)
    trainer._metrics = defaultdict(lambda: defaultdict(list))
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logps, entropies, None)
    return trainer


def of_trl(values, name="GRPO", **settings):
    """TRL's value, its gradients by log-probabilities and entropies, and what it logs."""
    leaves = {key: values[key].clone().requires_grad_() for key in ("logps", "entropies")}
    trainer = trainer_of(name, **leaves, **settings)
    mask = values["completion_mask"].long()
    inputs = {
        "prompt_ids": mask, "prompt_mask": mask, "completion_ids": mask, "completion_mask": mask,
        "advantages": values["advantages"], "old_per_token_logps": values["old_logps"],
        "ref_per_token_logps": values["ref_logps"], "num_items_in_batch": mask.sum(),
        "old_logps": (values["old_logps"] * mask).sum(1),
    }  # fmt: skip
    inputs |= {theirs: values[ours] for theirs, ours in SAMPLED.items() if ours in values}
    value = trainer._compute_loss(None, inputs)
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return value.detach(), dict(zip(leaves, found, strict=True)), trainer._metrics["train"]


def step(seed=0, **more):
    """A batch with all that TRL reads."""
    own, other = batch(seed), batch(seed + 50)
    return {**own, "ref_logps": other["logps"], "entropies": other["old_logps"].abs(), **more}


def assert_alike(loss, values, **settings):
    value, found, logged = of_trl(values, **settings)
    own, slopes = with_gradients(loss, values)
    torch.testing.assert_close(own, value, rtol=1e-10, atol=1e-12)
    for name, slope in found.items():
        torch.testing.assert_close(slopes[name], slope, rtol=1e-10, atol=1e-12)
    shares = loss.metrics(**values)
    for ours, theirs in SHARES.items():
        if f"clip_ratio/{theirs}" in logged and ours in shares:
            assert shares[ours].item() == pytest.approx(logged[f"clip_ratio/{theirs}"][0], abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize(
    ("kind", "aggregation"),
    [("grpo", "seq_mean"), ("bnpo", "token_mean"), ("dapo", "token_mean"), ("dr_grpo", "max_length")],
)
def test_grpo(kind, aggregation, beta):
    loss = GRPO(aggregation=aggregation, max_completion_length=7, epsilon_high=0.28, beta=beta)
    assert_alike(loss, step(), loss_type=kind, epsilon_high=0.28, beta=beta)


def test_grpos_delta():
    # Where it is above the range: TRL counts what is clipped after the cap, which lies beyond it.
    assert_alike(GRPO(1.5), step(), loss_type="dapo", delta=1.5)


def test_grpos_corrected_kl():
    loss = GRPO(beta=0.1, importance_corrected_kl=True)
    assert_alike(loss, step(), loss_type="dapo", beta=0.1, use_bias_correction_kl=True)


def test_grpos_off_policy_mask():
    assert_alike(GRPO(off_policy_threshold=0.15), step(), loss_type="dapo", off_policy_mask_threshold=0.15)


def test_grpos_top_entropies():
    assert_alike(GRPO(top_entropy=0.37), step(), loss_type="dapo", top_entropy_quantile=0.37)


def test_grpos_entropy_bonus():
    loss = GRPO(entropy_weight=0.03)
    assert_alike(loss, step(), loss_type="dapo", _entropy_bonus_enabled=True, entropy_coef=0.03)


def test_grpos_sampling_ratio():
    ratio = batch(9)["old_logps"].exp()
    assert_alike(GRPO(beta=0.1), step(sampling_ratio=ratio), loss_type="dapo", beta=0.1, use_vllm=True)


def test_gspo():
    loss = GSPO(epsilon_low=0.1, epsilon_high=0.15, beta=0.04)
    settings = {"epsilon_low": 0.1, "epsilon_high": 0.15, "beta": 0.04}
    assert_alike(loss, step(), loss_type="grpo", importance_sampling_level="sequence", **settings)


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_luspo(beta):
    # Its KL has been taken over the tokens that count since TRL 1.16.
    loss = LUSPO(epsilon_low=0.1, epsilon_high=0.15, beta=beta)
    settings = {"epsilon_low": 0.1, "epsilon_high": 0.15, "beta": beta}
    assert_alike(loss, step(), loss_type="luspo", importance_sampling_level="sequence", **settings)


def test_cispo():
    assert_alike(CISPO(1.3), step(), loss_type="cispo", epsilon_high=1.3)


def test_sapo():
    # TRL has the temperatures in single precision, which these are numbers of.
    assert_alike(SAPO(0.5, 1.25), step(), loss_type="sapo", sapo_temperature_pos=0.5, sapo_temperature_neg=1.25)


@pytest.mark.parametrize("sampled", [False, True])
def test_vespo(sampled):
    values = step()
    if sampled:
        # TRL multiplies those of the padding too.
        values["sampling_ratio"] = batch(9)["old_logps"].exp().masked_fill(~values["completion_mask"], 1.0)
    assert_alike(VESPO(), values, loss_type="vespo")


def test_rloo():
    values = step()
    assert_alike(RLOO(), {**values, "logps": values["old_logps"] + 0.1 * (values["logps"] - values["old_logps"])},
                 name="RLOO")  # fmt: skip
