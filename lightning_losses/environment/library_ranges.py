"""The ranges of arguments that Lightning and torch don't check, or refuse without naming them."""

from lightning_losses.numerics.settings import Bound

_AT_LEAST_1, _AT_LEAST_0, _ABOVE_0 = Bound(least=1), Bound(least=0), Bound(above=0)
_UNLIMITED_AT_MINUS_1 = Bound(least=-1)
# So many layers would be built one by one until the memory ends.
_DEPTH = {"depth": Bound(least=0, most=10_000)}
# By the base of what is built, and the argument's name; a list's range is that of its members.
_RANGES = {
    "lightning.pytorch.trainer.trainer.Trainer": {
        **dict.fromkeys(("accumulate_grad_batches", "check_val_every_n_epoch"), _AT_LEAST_1),
        # Beyond these, Lightning would begin to list the processes and never end.
        "devices": Bound(least=-1, most=4096),
        "num_nodes": Bound(least=1, most=4096),
        **dict.fromkeys(("gradient_clip_val", "limit_val_batches", "log_every_n_steps", "fast_dev_run"), _AT_LEAST_0),
        **dict.fromkeys(("limit_test_batches", "limit_predict_batches", "overfit_batches"), _AT_LEAST_0),
        **dict.fromkeys(("min_epochs", "min_steps", "reload_dataloaders_every_n_epochs"), _AT_LEAST_0),
        **dict.fromkeys(("max_epochs", "max_steps", "num_sanity_val_steps"), _UNLIMITED_AT_MINUS_1),
        **dict.fromkeys(("limit_train_batches", "val_check_interval"), _ABOVE_0),
    },
    "lightning.pytorch.callbacks.early_stopping.EarlyStopping": {"patience": _AT_LEAST_0, "min_delta": _AT_LEAST_0},
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint": {
        "save_top_k": _UNLIMITED_AT_MINUS_1,
        **dict.fromkeys(("every_n_epochs", "every_n_train_steps"), _AT_LEAST_0),
    },
    "lightning.pytorch.loggers.csv_logs.CSVLogger": {"flush_logs_every_n_steps": _AT_LEAST_1},
    "lightning_losses.networks.hugging_face_causal.hugging_face_causal": _DEPTH,
    "lightning_losses.networks.timm_network.timm_network": _DEPTH,
    "torch.nn.modules.module.Module": _DEPTH,
    "torch.optim.optimizer.Optimizer": {
        **dict.fromkeys(("eps", "lr", "momentum", "weight_decay", "lr_decay", "lambd", "alpha"), _AT_LEAST_0),
        "betas": Bound(least=0, below=1),
        "rho": Bound(least=0, most=1),
    },
}


def range_of(target: object, name: str) -> Bound:
    """The range of an argument of a configured class or function; any finite number where none is known.

    Example:
        >>> from torch.optim import AdamW
        >>> str(range_of(AdamW, "betas"))
        'at least 0 and below 1'
    """
    kinds = target.__mro__ if isinstance(target, type) else (target,)
    bases = (f"{kind.__module__}.{getattr(kind, '__qualname__', '')}" for kind in kinds)
    return next((_RANGES[base][name] for base in bases if name in _RANGES.get(base, {})), Bound())
