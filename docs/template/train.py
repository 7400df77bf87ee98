"""A Hydra application: python train.py objective@model.objective=kd, or -m with several."""

import hydra
import lightning as L
from hydra.utils import instantiate


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config):
    L.seed_everything(config.seed)
    trainer = instantiate(config.trainer, callbacks=list(instantiate(config.callbacks).values()))
    trainer.fit(instantiate(config.model), instantiate(config.data))
    return float(trainer.callback_metrics["val_acc"])


if __name__ == "__main__":
    main()
