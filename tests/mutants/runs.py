"""Mistakes in what makes runs safe: configurations, files, checkpoints, resumption."""

from tests.mutants.mistake import of

TRUST = "tests/recipes/test_instantiate.py"
MISTAKES = [
    *of(
        "experiments/config/instantiate.py",
        TRUST,
        ('home.startswith(f"{module}.")', "home.startswith(module)"),
        ('"." in found.__qualname__ or ', ""),
        (' or found.__name__.startswith("_")', ""),
        ('check_targets(item, f"{path}[{position}]")', "pass"),
        ('find_target(value, str(name).removesuffix("._target_"))', "pass"),
        ("_further = before\n", "pass\n"),
    ),
    *of(
        "environment/atomic_files.py",
        "tests/environment/test_atomic_files.py",
        ("os.fsync(stream.fileno())\n            os.replace", "pass\n            os.replace"),
        ("_flush_folder(path.parent)", "pass"),
    ),
    *of(
        "environment/atomic_files.py",
        "tests/recipes/test_resume.py -k replaced_whole",
        ("        os.replace(partial, path)\n", "        pass\n"),
    ),
    *of(
        "checkpoints/last_checkpoint.py",
        "tests/checkpoints/test_last_checkpoint.py",
        ('self.best = state_dict["best"]', "pass"),
        ("value > self.best", "value >= self.best"),
    ),
    *of(
        "checkpoints/atomic_checkpoints.py",
        "tests/recipes/test_trust.py",
        ("weights_only=True)\n        except", "weights_only=False)\n        except"),
    ),
    *of(
        "checkpoints/process_states.py",
        "tests/checkpoints/test_process_states.py",
        ("one.dtype == other.dtype and torch.equal", "torch.equal"),
        ("result.value = value + result.value", "result.value = value"),
        ("len(states) != trainer.world_size", "len(states) < trainer.world_size"),
    ),
    *of(
        "checkpoints/resumption.py",
        "tests/recipes/test_resume.py -k other_settings",
        ("elif before != now:", "elif before is None:"),
    ),
    *of(
        "teachers/cached_logits.py",
        "tests/teachers/test_teachers.py",
        ('if checksum != _digest(weights["logits"]):', "if checksum is None:"),
    ),
]
