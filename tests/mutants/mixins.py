"""Mistakes in mixins, teachers and companions of losses."""

from tests.mutants.mistake import of

MISTAKES = [
    *of(
        "mixins/ema_teacher.py",
        "tests/mixins/test_ema_teacher.py",
        ('super().on_train_start()\n        self._ema["step"] = self.trainer.global_step', "super().on_train_start()"),
        ('1 - 1 / (self._ema["updates"] + 1)', '1 - 1 / (self._ema["updates"] + 2)'),
        ('if self.ema_buffers == "copy"', 'if self.ema_buffers != "copy"'),
        ('self._ema["updates"] = saved["updates"]', "pass"),
    ),
    *of(
        "mixins/self_distillation.py",
        "tests/mixins/test_self_distillation.py",
        ("torch.where((past != 0).any(dim=-1, keepdim=True), past, one_hot)", "past"),
        ('state.load_state_dict({"probabilities": saved["probabilities"]})', "pass"),
    ),
    *of(
        "mixins/sample_states.py",
        "tests/mixins/test_sample_states.py tests/mixins/test_self_distillation.py",
        ('gather_batch(tensors["index"].to(given["logits"].device))', 'tensors["index"]'),
        ("if self.evaluates or not torch.is_grad_enabled():", "if not torch.is_grad_enabled():"),
        ("(given.unsqueeze(-1).flatten(1) < torch.inf)", "(given.unsqueeze(-1).flatten(1) < 2)"),
        ("ordered[1:] != ordered[:-1]", "ordered[1:] == ordered[:-1]"),
        ('checkpoint["sample_states"] = kept', "pass"),
    ),
    *of(
        "mixins/mixup.py",
        "tests/mixins/test_mixup.py",
        ("mixed_target + weight * probabilities[order]", "mixed_target + weight * probabilities"),
        (".to(dtype) * kept.unsqueeze(-1)", ".to(dtype)"),
        ("order = order[(~kept[order]).to(torch.uint8).argsort(stable=True)]", "pass"),
    ),
    *of(
        "mixins/distillation.py",
        "tests/mixins/test_distillation.py tests/mixins/test_teacher_features.py",
        ('"view_index" if "view_index" in tensors else "index"', '"index"'),
    ),
    *of(
        "mixins/online_distillation.py",
        "tests/mixins/test_online_distillation.py",
        ("if position != number", "if position == number"),
    ),
    *of(
        "losses/noisy_labels/elr.py",
        "tests/losses/noisy_labels/test_elr.py",
        ("(1 - self.beta) * p / p.sum(dim=-1, keepdim=True)", "(1 - self.beta) * p"),
        ("p = _clamped(logits.detach())", "p = _clamped(logits)"),
    ),
    *of(
        "losses/regularization/saf.py",
        "tests/losses/regularization/test_saf.py",
        ('there = kept(f"epoch_{place}") == then', 'there = kept(f"epoch_{place}") <= then'),
        ("shifted = logits - logits.amax(dim=-1, keepdim=True)", "shifted = logits"),
        ("torch.iinfo(torch.int32).min", "-1"),
    ),
    *of(
        "losses/multi_label/reflective_label_corrector.py",
        "tests/losses/multi_label/test_reflective_label_corrector.py",
        ("torch.where(self.added_in == epoch, before, 0.0)", "before"),
        ("& (p > mean) ", ""),
    ),
    *of(
        "mixins/co_teaching.py",
        "tests/mixins/test_co_teaching.py",
        ("self._picked(objective, other,", "self._picked(objective, own,"),
        ("+ 1e-9).floor()", ").floor()"),
        ("argsort(stable=True)\n    # Ignored", "argsort(descending=True)\n    # Ignored"),
        ("return picked[begin : begin + len(losses)]", "return picked[: len(losses)]"),
    ),
    *of(
        "mixins/language_head.py",
        "tests/mixins/test_language_head.py",
        ("target[..., int(shift) :] != ignore_index", "target != ignore_index"),
    ),
    *of(
        "teachers/ensemble.py",
        "tests/teachers/test_ensemble.py",
        ("return self.temperature * torch.logsumexp", "return torch.logsumexp"),
        ("[one / sum(scaled) for one in scaled]", "scaled"),
    ),
    *of("kernels/rows/teachers.py", "tests/teachers/test_cache_teacher.py", ("- math.log(count)", "")),
    *of(
        "teachers/cache_teacher.py",
        "tests/teachers/test_cache_teacher.py",
        ("done += rows\n", "done = samples\n"),
    ),
    *of(
        "callbacks/companions/domain_weights.py",
        "tests/callbacks/companions/test_domain_weights.py",
        ("step != self._renewed and step % self.every == 0", "step % self.every == 0"),
        ("self._renewed = trainer.global_step", "self._renewed = 0"),
        ("(sums / counts).cpu()", "sums.cpu()"),
    ),
    *of(
        "parallel/processes.py",
        "tests/distributed/test_gather.py",
        ("return total[ctx.start : ctx.start + ctx.size], None", "return total[: ctx.size], None"),
        ("dist.all_reduce(total, group=ctx.group)", "pass"),
    ),
    *of(
        "losses/kinds.py",
        "tests/distributed/test_equality.py -k cross_entropy_weighted-ddp",
        ("weight is None or target.is_floating_point()", "True"),
    ),
]
