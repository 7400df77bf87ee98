import pytest

from lightning_losses.experiments.config.check_overrides import plain_overrides


@pytest.mark.parametrize(
    ("argument", "plain"),
    [
        ("optimizer={'lr': 0.1, 'more': {'betas': [0.9, 0.99], 'x': None}}",
         ["optimizer.lr=0.1", "optimizer.more.betas=[0.9, 0.99]", "optimizer.more.x=null"]),
        ("trainer.gradient_clip_val=None", ["trainer.gradient_clip_val=null"]),
        ("+optimizer={'lr': True}", ["+optimizer.lr=True"]),
        # Hydra's own words stay.
        ("optimizer={lr: 0.1}", ["optimizer={lr: 0.1}"]),
        ("optimizer={'lr': f(x)}", ["optimizer={'lr': f(x)}"]),
        ("objective=kd,nkd", ["objective=kd,nkd"]),
        ("~scheduler", ["~scheduler"]),
        ("-m", ["-m"]),
        ("title=None of it", ["title=None of it"]),
    ],
)  # fmt: skip
def test_only_pythons_dictionaries_and_none_are_rewritten(argument, plain):
    assert plain_overrides([argument]) == plain
