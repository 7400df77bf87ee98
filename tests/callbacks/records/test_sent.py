"""Pictures and tables reach every logger that has a place for them, of either Lightning."""

import importlib
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_losses.callbacks.records.figures import publish, publish_table
from lightning_losses.callbacks.records.sent import send_picture, send_table
from lightning_losses.experiments.loggers.loggers import log_folder
from lightning_losses.experiments.loggers.mlflow_run import MLflowRun
from tests.recipes.conftest import composed

ROWS = [["a", 1.5], ["b", None]]


@pytest.fixture
def png(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "curve.png")
    return tmp_path / "curve.png"


def sent(logger, png):
    """A callback's picture and table at step 7, and a report's."""
    trainer = SimpleNamespace(is_global_zero=True, global_step=7, loggers=[logger])
    figure = Figure()
    publish(trainer, "val/reliability", figure, None)
    publish_table(trainer, "val/bins", ["bin", "share"], ROWS)
    send_picture(logger, "report/curve", png)
    send_table(logger, "report/networks", ["network", "nll"], ROWS)


def of_tensorboard(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()
    texts = {tag: events.Tensors(tag)[0] for tag in tags["tensors"]}
    return {tag: events.Images(tag)[0].step for tag in tags["images"]}, texts


@pytest.mark.parametrize("lightning", ["lightning.pytorch", "pytorch_lightning"])
def test_tensorboard_shows_pictures_and_tables(tmp_path, png, lightning):
    logger = importlib.import_module(f"{lightning}.loggers").TensorBoardLogger(tmp_path)
    sent(logger, png)
    logger.finalize("success")
    images, texts = of_tensorboard(logger.log_dir)
    assert images == {"val/reliability": 7, "report/curve": 0}
    assert texts["val/bins/text_summary"].step == 7
    assert texts["report/networks/text_summary"].tensor_proto.string_val == [
        b"|network|nll|\n|---|---|\n|a|1.5|\n|b|None|"
    ]
    # As before, beside the logger's own files.
    assert [path.name for path in tmp_path.rglob("figures/val/*.png")] == ["reliability.png"]


@pytest.mark.parametrize("lightning", ["lightning.pytorch", "pytorch_lightning"])
def test_mlflow_keeps_pictures_and_tables_as_artifacts(tmp_path, png, monkeypatch, lightning):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = importlib.import_module(f"{lightning}.loggers").MLFlowLogger(save_dir=str(tmp_path / "mlruns"))
    sent(logger, png)
    (folder,) = tmp_path.rglob("artifacts")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    assert files == {"val/reliability/step_00000007.png", "val/bins/step_00000007.csv", "report/curve.png",
                     "report/networks.csv"}  # fmt: skip
    assert (folder / "report" / "networks.csv").read_text() == "network,nll\na,1.5\nb,\n"


def test_comet_is_called_as_its_documentation_says(png):
    calls = []

    class Experiment:
        """With the arguments that https://www.comet.com/docs/v2/api-and-sdk/python-sdk/reference/Experiment/ names."""

        def log_figure(self, figure_name=None, figure=None, overwrite=False, step=None):
            calls.append(("figure", figure_name, type(figure), step))

        def log_image(self, image_data, name=None, overwrite=False, image_format="png", step=None):
            calls.append(("image", image_data, name, step))

        def log_table(self, filename, tabular_data=None, headers=False, **format_kwargs):
            calls.append(("table", filename, tabular_data, headers, format_kwargs))

    class CometLogger:
        experiment, log_dir = Experiment(), None

    sent(CometLogger(), png)
    assert calls == [
        ("figure", "val/reliability", Figure, 7),
        ("table", "val/bins/step_00000007.csv", ROWS, ["bin", "share"], {}),
        ("image", str(png), "report/curve", None),
        ("table", "report/networks.csv", ROWS, ["network", "nll"], {}),
    ]


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_report_and_its_configuration_reach_the_logger_that_is_chosen(tmp_path, png, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "run" / "report").mkdir(parents=True)
    png.rename(tmp_path / "run" / "report" / "reliability.png")
    (tmp_path / "run" / "report" / "table.csv").write_text("network,nll\nce,0.5\n")
    log_folder(
        composed(f"logger={name}", "objective=kd", "output=outputs"),
        tmp_path / "run",
        {"test/nll": 0.5, "test/nll/kd": 0.25},
    )
    if name == "tensorboard":
        (folder,) = tmp_path.glob("run/logs/version_0")
        images, texts = of_tensorboard(folder)
        assert set(images) == {"calibration/reliability"} and "report/table/text_summary" in texts
        assert "kd" in (folder / "hparams.yaml").read_text()
        return
    (run,) = (path.parent for path in tmp_path.glob("outputs/mlruns/*/*/artifacts"))
    assert (run / "artifacts" / "calibration" / "reliability.png").is_file()
    assert (run / "artifacts" / "report" / "table.csv").read_text() == "network,nll\nce,0.5\n"
    assert {path.name for path in (run / "metrics" / "test").iterdir()} == {"nll", "nll.kd"} and (
        run / "params" / "objective"
    ).is_dir()
    # FINISHED, in MLflow's numbers.
    assert "status: 3" in (run / "meta.yaml").read_text()


def test_a_configuration_names_no_server_of_mlflow():
    with pytest.raises(TypeError, match="tracking_uri"):
        MLflowRun(tracking_uri="http://elsewhere")
