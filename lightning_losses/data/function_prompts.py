"""Functions of the standard library, cut within a statement, and the oracle of what completes them: the parser."""

import ast
import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lightning_losses.data.stdlib_text import source_files
from lightning_losses.numerics.checks import check_count, check_number

NEWLINE = 10
# Where a line is cut: behind "return" or behind an assignment's sign.
_BEGUN = re.compile(rb"\s+(return |[\w.]+ = )")


class PromptSplits(NamedTuple):
    """Prompts of training, validation and test, each file's in one of them."""

    train: list[bytes]
    val: list[bytes]
    test: list[bytes]


def function_prompts(longest: int, split_seed: int = 0, held_out: float = 0.2) -> PromptSplits:
    """The beginnings of module-level functions, up to within a statement: ``def f(x):\\n    return ``.

    Args:
        longest: the most bytes of a prompt.
        split_seed: fixes which files are held out.
        held_out: the share of files of the validation split, and of the test split, at most a half.

    Raises:
        ValueError: a length below 1, or a share out of range; no sources.

    Example:
        >>> prompts = function_prompts(longest=60)
        >>> len(prompts.train) > len(prompts.test) > 0, max(map(len, prompts.train)) <= 60
        (True, True)
    """
    check_count("function_prompts", "longest", longest)
    check_number("function_prompts", "held_out", held_out, least=0, most=0.5)
    paths = source_files()
    order = np.random.RandomState(split_seed).permutation(len(paths))
    size = int(held_out * len(paths))
    parts = np.split(order, [len(order) - 2 * size, len(order) - size])
    return PromptSplits(
        *(_unique([p for i in part for p in _prompts(paths[i].read_bytes(), longest)]) for part in parts)
    )


def _unique(prompts: Sequence[bytes]) -> list[bytes]:
    return list(dict.fromkeys(prompts))


def _prompts(source: bytes, longest: int) -> list[bytes]:
    """Those of one file."""
    lines, prompts = source.split(b"\n"), []
    for function in (node for node in _tree(source).body if isinstance(node, ast.FunctionDef)):
        own = lines[function.lineno - 1 : function.end_lineno]
        for number in range(1, len(own)):
            begun = _BEGUN.match(own[number])
            prompt = b"\n".join(own[:number]) + b"\n" + (begun.group() if begun else b"")
            if len(prompt) > longest:
                break
            if begun and parses(prompt + b"0\n"):
                prompts.append(prompt)
    return prompts


def parses(source: bytes) -> bool:
    """Whether it is a program of Python's.

    Example:
        >>> parses(b"def f(x):\\n    return x\\n"), parses(b"def f(x):\\n    return )\\n")
        (True, False)
    """
    try:
        _tree(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _tree(source: bytes) -> ast.Module:
    with warnings.catch_warnings():
        # Generated code warns of much.
        warnings.simplefilter("ignore")
        return ast.parse(source)


def completes(prompt: bytes, completion: bytes) -> bool:
    """Whether a completion ends the prompt's line with something, and the whole parses.

    Example:
        >>> [completes(b"def f(x):\\n    return ", completion) for completion in (b"x + 1\\n", b"\\n", b"x +\\n", b"x")]
        [True, False, False, False]
    """
    return completion.endswith(b"\n") and bool(completion.strip()) and parses(prompt + completion)


def as_tokens(texts: Sequence[bytes]) -> tuple[Int[Tensor, "batch longest"], Int[Tensor, " batch"]]:
    """Texts as bytes, padded by newlines at the right, and their lengths.

    Example:
        >>> as_tokens([b"ab", b"c"])
        (tensor([[97, 98],
                [99, 10]]), tensor([2, 1]))
    """
    lengths = torch.tensor([len(text) for text in texts])
    tokens = torch.full((len(texts), max(map(len, texts), default=0)), NEWLINE)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = torch.tensor(list(text))
    return tokens, lengths
