"""Every method that TRL has, against TRL itself, in float64: values, and gradients by every logit.

TRL's trainers are not built, for that takes a model and a data set: their methods are called with what they read of
them. A completion's tokens follow a prompt, and are padded.
"""

import importlib
import warnings
from collections import defaultdict
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from lightning_losses.losses import (
    AOT,
    CPO,
    DPO,
    FDPO,
    IPO,
    ORPO,
    APODown,
    APOZero,
    BCOPair,
    CompletionNLL,
    DiscoPOP,
    DPONorm,
    EXOPair,
    HingeDPO,
    NCAPair,
    RobustDPO,
    SimPO,
    SPPOHard,
)

pytest.importorskip("trl")
BETA, PAIRS, LENGTH, VOCABULARY = 0.3, 5, 8, 11


def of_trl(module, name):
    """A class of TRL, which warns of what it will rename."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(importlib.import_module(module), name)


def batch():
    """Logits of policy and reference, ids and mask of the chosen, then of the rejected completions."""
    generator = torch.Generator().manual_seed(0)
    shape = (2 * PAIRS, LENGTH, VOCABULARY)
    logits, reference = (2 * torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    ids = torch.randint(VOCABULARY, shape[:2], generator=generator)
    first = torch.randint(1, 4, (2 * PAIRS, 1), generator=generator)
    length = torch.randint(1, 5, (2 * PAIRS, 1), generator=generator)
    places = torch.arange(LENGTH)
    return logits, reference, ids, (places >= first) & (places < first + length)


class Scores:
    """A model as TRL's fused head shows it: what it says of each label, 0 where none counts."""

    def __init__(self, logits):
        self.logits, self.training = logits, True

    def __call__(self, labels, **_):
        log_p = self.logits[:, :-1].log_softmax(dim=-1)
        kept = labels[:, 1:] != -100
        own = log_p.gather(-1, labels[:, 1:].clamp(min=0).unsqueeze(-1)).squeeze(-1)
        zeros = torch.zeros_like(own)
        return SimpleNamespace(
            log_probs=own * kept,
            log_sum_sq_probs=(2 * log_p).logsumexp(dim=-1) * kept,
            entropy=zeros,
            mean_logits=zeros,
            is_top1=zeros.bool(),
        )


class Quiet:
    """What TRL logs by."""

    device = torch.device("cpu")

    def gather(self, values):
        return values

    gather_for_metrics = gather


def dpo_trainer(logits, reference, ids, mask, loss_types=("sigmoid",), **options):
    """The value of TRL's DPOTrainer."""
    trainer = of_trl("trl.trainer.dpo_trainer", "DPOTrainer")
    reads = {
        "model": torch.nn.Module(),
        "ref_model": Scores(reference),
        "accelerator": Quiet(),
        "args": SimpleNamespace(discopop_tau=0.05, gradient_checkpointing_kwargs=None),
        "aux_loss_enabled": False,
        "beta": BETA,
        "f_alpha_divergence_coef": 0.5,
        "f_divergence_type": "reverse_kl",
        "label_smoothing": 0.0,
        "ld_alpha": None,
        "loss_types": loss_types,
        "loss_weights": [1.0] * len(loss_types),
        "precompute_ref_logps": False,
        "use_weighting": False,
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    inputs = {"input_ids": ids, "completion_mask": mask.long(), "attention_mask": torch.ones_like(ids)}
    with pytest.MonkeyPatch.context() as patch:
        # That is for models that recompute their activations.
        patch.setattr(f"{trainer.__module__}.disable_gradient_checkpointing", lambda *_: nullcontext())
        return trainer._compute_loss(SimpleNamespace(**{**reads, **options}), Scores(logits), inputs, False)


def own(loss, logits, reference, ids, mask):
    """The value of a loss here."""
    scores, references = (Scores(each)(ids) for each in (logits, reference))
    named = {
        "logps": scores.log_probs,
        "mask": mask[:, 1:],
        "log_collisions": scores.log_sum_sq_probs,
    }
    values = {
        f"{side}_{name}": part
        for name, both in named.items()
        for side, part in zip(("chosen", "rejected"), both.chunk(2), strict=True)
    }
    values["ref_chosen_logps"], values["ref_rejected_logps"] = references.log_probs.chunk(2)
    return loss(**{name: values[name] for name in loss.inputs()})


METHODS = {
    "dpo": (DPO(BETA), {}),
    "length_desensitized": (DPO(BETA, tail_weight=0.4), {"ld_alpha": 0.4}),
    "weighted": (DPO(BETA, weighting=True), {"use_weighting": True}),
    "robust_dpo": (RobustDPO(BETA, 0.2), {"loss_types": ["robust"], "label_smoothing": 0.2}),
    "hinge_dpo": (HingeDPO(BETA), {"loss_types": ["hinge"]}),
    "ipo": (IPO(BETA), {"loss_types": ["ipo"]}),
    "dpo_norm": (DPONorm(BETA), {"loss_types": ["sigmoid_norm"]}),
    "bco_pair": (BCOPair(BETA), {"loss_types": ["bco_pair"]}),
    "nca_pair": (NCAPair(BETA), {"loss_types": ["nca_pair"]}),
    "sppo_hard": (SPPOHard(BETA), {"loss_types": ["sppo_hard"]}),
    "apo_zero": (APOZero(BETA), {"loss_types": ["apo_zero"]}),
    "apo_down": (APODown(BETA), {"loss_types": ["apo_down"]}),
    "aot": (AOT(BETA, True, 0.1), {"loss_types": ["aot"], "label_smoothing": 0.1}),
    "aot_unpaired": (AOT(BETA, False, 0.1), {"loss_types": ["aot_unpaired"], "label_smoothing": 0.1}),
    "discopop": (DiscoPOP(BETA), {"loss_types": ["discopop"]}),
    "f_dpo_forward_kl": (FDPO(BETA, "forward_kl"), {"f_divergence_type": "forward_kl"}),
    "f_dpo_js": (FDPO(BETA, "js"), {"f_divergence_type": "js_divergence"}),
    "completion_nll": (CompletionNLL(), {"loss_types": ["sft"]}),
}
# TRL forms one step in float32.
IN_SINGLE_PRECISION = {
    "exo_pair": (EXOPair(BETA, 0.2), {"loss_types": ["exo_pair"], "label_smoothing": 0.2}),
}


def compared(loss, options, rtol, atol):
    logits, *others = batch()
    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    values = own(loss, leaves[0], *others), dpo_trainer(leaves[1], *others, **options)
    torch.testing.assert_close(*values, rtol=rtol, atol=atol, check_dtype=False)
    slopes = [torch.autograd.grad(value, leaf)[0] for value, leaf in zip(values, leaves, strict=True)]
    torch.testing.assert_close(*slopes, rtol=rtol, atol=atol)


@pytest.mark.parametrize("method", METHODS)
def test_trainer_of_dpo(method):
    compared(*METHODS[method], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", IN_SINGLE_PRECISION)
def test_trainer_of_dpo_with_a_step_in_single_precision(method):
    compared(*IN_SINGLE_PRECISION[method], rtol=1e-6, atol=1e-7)


def test_alpha_of_trl_is_one_less_alpha():
    """TRL's alpha divergence knows no float64."""
    logits, reference, *others = batch()
    narrow = logits.float(), reference.float(), *others
    options = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7}
    torch.testing.assert_close(own(FDPO(BETA, "alpha", 0.3), *narrow), dpo_trainer(*narrow, **options))


REFERENCE_FREE = {
    "cpo": (CPO(BETA, 0.1, nll_weight=0.0), {"loss_type": "sigmoid", "label_smoothing": 0.1}),
    "cpo_hinge": (CPO(BETA, link="hinge", nll_weight=0.0), {"loss_type": "hinge"}),
    "cpo_ipo": (CPO(BETA, link="ipo", nll_weight=0.0), {"loss_type": "ipo"}),
    "simpo": (SimPO(BETA, 0.5, 0.0, 0.1), {"loss_type": "simpo", "label_smoothing": 0.1}),
    "alphapo": (SimPO(BETA, 0.5, 0.25), {"loss_type": "simpo", "alpha": 0.25}),
}


def means_and_sums(logits, ids, mask):
    log_p = Scores(logits)(ids).log_probs * mask[:, 1:]
    sums = log_p.sum(dim=1)
    return (sums / mask[:, 1:].sum(dim=1)).chunk(2), sums.chunk(2)


@pytest.mark.parametrize("method", REFERENCE_FREE)
def test_trainer_of_cpo(method):
    loss, options = REFERENCE_FREE[method]
    trainer = of_trl("trl.experimental.cpo.cpo_trainer", "CPOTrainer")
    defaults = {"alpha": 0.0, "beta": BETA, "label_smoothing": 0.0, "simpo_gamma": 0.5, "accelerator": Quiet()}
    logits, reference, ids, mask = batch()
    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    means, sums = means_and_sums(leaves[1], ids, mask)
    averaged = options["loss_type"] in ("simpo", "ipo")
    values = (
        own(loss, leaves[0], reference, ids, mask),
        trainer.cpo_loss(SimpleNamespace(**{**defaults, **options}), *(means if averaged else sums))[0].mean(),
    )
    torch.testing.assert_close(*values, rtol=1e-10, atol=1e-12)
    slopes = [torch.autograd.grad(value, leaf)[0] for value, leaf in zip(values, leaves, strict=True)]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-12)


def test_trainer_of_orpo():
    """TRL forms the odds in float32."""
    trainer = of_trl("trl.experimental.orpo.orpo_trainer", "ORPOTrainer")
    logits, reference, ids, mask = batch()
    means, _ = means_and_sums(logits, ids, mask)
    theirs = -trainer.odds_ratio_loss(SimpleNamespace(beta=BETA, accelerator=Quiet()), *means)[0].mean()
    value = own(ORPO(BETA, nll_weight=0.0), logits, reference, ids, mask)
    torch.testing.assert_close(value, theirs, rtol=1e-5, atol=1e-6, check_dtype=False)
