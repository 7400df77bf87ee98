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


def test_every_process_raises_what_keeps_the_first_from_drawing_its_monitor(tmp_path):
    (tmp_path / "a_file").touch()
    monitor, told = WeightNorms(folder=tmp_path / "a_file" / "pictures"), []
    broadcasts = {True: lambda failure: told.append(failure) or failure, False: lambda failure: told[0]}
    for first, broadcast in broadcasts.items():
        trainer = SimpleNamespace(is_global_zero=first, strategy=SimpleNamespace(broadcast=broadcast))
        with pytest.raises(NotADirectoryError) as raised:
            monitor.on_fit_start(trainer, SimpleNamespace())
        assert raised.value.filename == str(tmp_path / "a_file")
