from types import SimpleNamespace

import pytest

from lightning_losses.callbacks.monitors.weight_norms import WeightNorms
from lightning_losses.environment.writable_folder import check_writable


def test_a_folder_that_can_be_made_is_writable_and_stays_away(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_what_can_not_be_written_is_named(tmp_path):
    (tmp_path / "a_file").touch()
    with pytest.raises(NotADirectoryError) as error:
        check_writable(tmp_path / "a_file" / "b")
    assert error.value.filename == str(tmp_path / "a_file")


def test_a_monitor_tries_its_folder_when_training_starts(tmp_path):
    (tmp_path / "a_file").touch()
    monitor = WeightNorms(folder=tmp_path / "a_file" / "pictures")
    with pytest.raises(NotADirectoryError, match="a_file"):
        monitor.on_fit_start(SimpleNamespace(is_global_zero=True), SimpleNamespace())
