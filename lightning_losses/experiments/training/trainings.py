"""The networks that a configuration of the train recipe describes."""

from omegaconf import DictConfig, OmegaConf

from lightning_losses.experiments.training.training import Training


def trainings(config: DictConfig) -> dict[str, Training]:
    """The networks that the experiment trains, in order: the student last, after what it is compared with.

    The teacher's data are the student's, with the values of `teacher_data` set.
    """
    found: dict[str, Training] = {}
    for name in ("teacher", "baseline", "student"):
        if config.modules[name] is not None:
            data = config.data
            if name == "teacher" and config.get("teacher_data"):
                data = OmegaConf.merge(data, config.teacher_data)
                assert isinstance(data, DictConfig)
                data._set_parent(config)
            found[name] = Training(
                name=name,
                module=config.modules[name],
                data=data,
                trainer=config.trainer,
                scheduler=config.get("scheduler") or None,
                callbacks=config.get("callbacks") or None,
                seed=config.teacher_seed if name == "teacher" else config.seed,
                weights=config.weights,
                teacher=found.get("teacher") if name == "student" else None,
                checkpoint=config.teacher_weights if name == "teacher" else None,
                execution=config.get("execution") or None,
            )
    return found
