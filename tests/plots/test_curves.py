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


def test_lines_leave_the_axis_only_where_the_ends_are_close_together():
    slow, fast = [0.2, 0.3, 0.4, 0.5, 0.6, 0.65], [0.5, 0.8, 0.9, 0.92, 0.93, 0.94]
    apart = {name: {"val/accuracy": values, "val/loss": [1.0] * 6} for name, values in (("a", slow), ("b", fast))}
    assert validation_curves(apart).axes[0].get_ylim() == (18, 100)
    close = {name: {"val/accuracy": [0.1, *fast[1:]], "val/loss": [1.0] * 6} for name in ("a", "b")}
    assert validation_curves(close).axes[0].get_ylim() == (78, 100)
