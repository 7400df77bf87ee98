import ast

import pytest
import torch

from lightning_losses.data.function_prompts import as_tokens, completes, function_prompts
from lightning_losses.data.stdlib_text import library_root


def test_prompts_are_functions_cut_within_a_statement():
    prompts = function_prompts(longest=80)
    every = [*prompts.train, *prompts.val, *prompts.test]
    assert len(prompts.train) > 200 and len(prompts.test) > 20
    assert all(len(prompt) <= 80 and prompt.startswith((b"def ", b"async def ")) for prompt in every)
    assert all(prompt.endswith((b"return ", b" = ")) for prompt in every)
    for prompt in every[:50]:
        ast.parse(prompt + b"0\n")
    # A file is in one split; some functions are in several files.
    assert len({*prompts.train} & {*prompts.test}) < 0.05 * len(prompts.test)


def test_the_seed_decides_which_files_are_held_out():
    first, again, other = (function_prompts(60, split_seed=seed) for seed in (0, 0, 1))
    assert first == again and {*first.test} != {*other.test}


def test_nothing_may_be_held_out(monkeypatch):
    few = [library_root() / name for name in ("glob.py", "shlex.py", "textwrap.py")]
    monkeypatch.setattr("lightning_losses.data.function_prompts.source_files", lambda: few)
    prompts = function_prompts(60, held_out=0.0)
    assert prompts.train and not prompts.val and not prompts.test
    with pytest.raises(
        ValueError, match="^function_prompts: held_out=0.6 came; give a number at least 0 and at most 0.5"
    ):
        function_prompts(60, held_out=0.6)


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        (b"len(x)\n", True),
        (b"\n", False),
        (b"   \n", False),
        (b"len(x)", False),
        (b"len(x\n", False),
        (b"# nothing\n", True),
        (b"\x00\n", False),
        (b"\xff\n", False),
    ],
)
def test_what_completes_a_function(completion, right):
    assert completes(b"def f(x):\n    return ", completion) is right


def test_tokens_are_bytes_with_padding():
    tokens, lengths = as_tokens([b"abc", b"d"])
    assert tokens.tolist() == [[97, 98, 99], [100, 10, 10]] and lengths.tolist() == [3, 1]
    assert as_tokens([])[0].shape == torch.Size([0, 0])
