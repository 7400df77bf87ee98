from lightning_losses.plots.curves import validation_curves


def test_a_network_is_drawn_from_the_first_epoch_that_was_validated():
    histories = {
        "each epoch": {"train/loss": [3.0, 2.0, 1.0], "val/accuracy": [0.1, 0.2, 0.3], "val/loss": [3.0, 2.0, 1.0]},
        "every second": {"train/loss": [3.0, 2.0, 1.0], "val/accuracy": [0.2, 0.2], "val/loss": [2.0, 2.0]},
        "never": {"train/loss": [3.0]},
    }
    accuracy, loss = validation_curves(histories).axes
    for axis in (accuracy, loss):
        drawn = {line.get_label(): list(line.get_xdata()) for line in axis.get_lines()}
        assert drawn["each epoch"] == [1, 2, 3] and drawn["every second"] == [2, 3] and not drawn.get("never")
    assert accuracy.get_ylim() == (8, 100)
