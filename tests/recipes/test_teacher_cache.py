import pytest
import torch


def test_a_student_of_the_cached_teacher_is_that_of_the_live_one(run, tmp_path):
    options = ("experiment=distill_cached", "modules.baseline=null", "data.views=2", "trainer.max_epochs=3")
    live = run(*options, "teacher_cache=null", folder=tmp_path / "live").evaluations
    cached = run(*options, folder=tmp_path / "cached").evaluations
    # The teacher rounds otherwise in batches of another size, before nine steps of AdamW.
    torch.testing.assert_close(cached[-1].logits, live[-1].logits, rtol=1e-3, atol=1e-4)
    few = run(*options, "teacher_cache=2", folder=tmp_path / "few").evaluations
    assert (few[-1].logits - live[-1].logits).abs().max() > 1e-3


def test_features_are_cached_where_the_objective_asks(run, cache):
    report = run("teacher_cache=3", "objective=attention_transfer", "modules.baseline=null")
    assert torch.isfinite(report.evaluations[-1].logits).all()
    assert any(file.name.startswith("features.") for file in (cache / "logits").rglob("*.npy"))


def test_another_value_is_refused(run):
    with pytest.raises(ValueError, match="^teacher_cache='half' came; give full, a number of logits to keep, or null"):
        run("teacher_cache=half", "modules.baseline=null")
