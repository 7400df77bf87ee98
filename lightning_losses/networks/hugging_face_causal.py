"""A causal language model of the transformers library, of any of its architectures, or from a folder."""

from pathlib import Path
from typing import Any

from torch import nn

from lightning_losses.environment.extras import require
from lightning_losses.numerics.checks import check_count


def hugging_face_causal(
    model_type: str = "llama",
    *,
    vocabulary_size: int | None = None,
    context_length: int | None = None,
    width: int = 64,
    depth: int = 2,
    heads: int = 2,
    folder: str | Path | None = None,
    **options: Any,
) -> nn.Module:
    """A causal language model of transformers: with random first weights, or with those of a folder.

    Only local files are read, weights only from safetensors; no code from the folder is run.

    Args:
        model_type: an architecture by its name in transformers, such as "llama", "gpt2", "qwen3" or "gpt_neox".
        vocabulary_size: the number of tokens; one of the data's alphabet is enough for a folder's network.
        context_length: the most tokens that it reads.
        width: of the hidden states; the feed-forward layers have four times as much.
        depth: the number of blocks.
        heads: of attention; they divide the width.
        folder: the folder of a trained model's ``config.json`` and ``model.safetensors``, in place of all the others
            but `vocabulary_size` and `context_length`, which it must reach.
        **options: further settings of the architecture's configuration.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        ValueError: an unknown architecture, one that is no causal language model, or one whose configuration doesn't
            take the sizes; no sizes; a folder without a model's files, or with one that knows fewer tokens.

    Example:
        >>> import torch
        >>> network = hugging_face_causal("gpt2", vocabulary_size=9, context_length=8, width=8, depth=1)
        >>> network(torch.tensor([[1, 2, 3]])).logits.shape
        torch.Size([1, 3, 9])
    """
    require("hugging_face_causal", "transformers")
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

    if folder is not None:
        return _from_folder(Path(folder), vocabulary_size, context_length)
    counts = {"vocabulary_size": vocabulary_size, "context_length": context_length, "width": width, "depth": depth}
    for name, count in (counts | {"heads": heads}).items():
        check_count("hugging_face_causal", name, count)
    try:
        config = AutoConfig.for_model(model_type)
    except (ValueError, KeyError):
        config = None
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"hugging_face_causal: model_type={model_type!r} came; give the name of a causal language model of "
            "transformers, such as 'llama', 'gpt2', 'qwen3' or 'gpt_neox'."
        )
    sizes = {
        "vocab_size": vocabulary_size,
        "max_position_embeddings": context_length,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": width // heads,
        # The data mark no tokens of their own.
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        "use_cache": False,
    }
    asked = {**sizes, **options}
    try:
        chosen = AutoConfig.for_model(model_type, **asked)
    except Exception as error:  # each architecture refuses in its own way
        raise ValueError(
            f"hugging_face_causal: the configuration of {model_type!r} does not take these sizes "
            f"({' '.join(str(error).split())}); set what it asks for as options, or give another architecture."
        ) from error
    # Of a model of images too, they are those of a configuration within.
    language = chosen.get_text_config(decoder=True)
    for name in ("vocab_size", "hidden_size", "num_hidden_layers"):
        if (own := getattr(language, name, None)) != asked[name]:
            raise ValueError(
                f"hugging_face_causal: {name}={asked[name]} came, and the configuration of {model_type!r} keeps {own}; "
                "set it by the names that this architecture has, as options, or give another, such as 'gemma3_text' "
                "for 'gemma3'."
            )
    from_config: Any = AutoModelForCausalLM.from_config
    network: nn.Module = from_config(chosen, trust_remote_code=False)
    return network


def _from_folder(folder: Path, vocabulary_size: int | None, context_length: int | None) -> nn.Module:
    from transformers import AutoModelForCausalLM

    if not (folder / "config.json").is_file():
        raise ValueError(f"hugging_face_causal: {folder} holds no config.json; give the folder of a model's files.")
    network: nn.Module = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    config: Any = network.config
    language = config.get_text_config(decoder=True)
    # Read, it is in evaluation, and a trainer would leave it there.
    network.train()
    config.use_cache = False
    for name, asked, own in (
        ("vocabulary_size", vocabulary_size, getattr(language, "vocab_size", None)),
        ("context_length", context_length, getattr(language, "max_position_embeddings", None)),
    ):
        if asked is not None and own is not None and asked > own:
            raise ValueError(
                f"hugging_face_causal: {name}={asked} came, and the model in {folder} has {own}; give data of no more "
                "than that, or another model."
            )
    return network
