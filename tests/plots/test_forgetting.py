from lightning_losses.plots.forgetting import forgetting_curves

NAMES = ("val/forget_nll", "val/retain_nll")


def test_what_leaves_the_axis_says_where_it_ends():
    curves = {
        "ascent": {NAMES[0]: [9.0, 20.6], NAMES[1]: [8.0, 20.2]},
        "npo": {NAMES[0]: [2.5, 2.6], NAMES[1]: [2.5, 2.6]},
    }
    forget, retain = forgetting_curves(curves, dict.fromkeys(NAMES, 2.0), most=11.0).axes
    assert [text.get_text() for text in forget.texts] == ["ascent ends at 20.6 \N{UPWARDS ARROW}"]
    assert [text.get_text() for text in retain.texts] == ["ascent ends at 20.2 \N{UPWARDS ARROW}"]
    assert forget.texts[0].get_color() == forget.lines[0].get_color() and forget.get_ylim()[1] == 11.0
    assert not any(axis.texts for axis in forgetting_curves(curves, dict.fromkeys(NAMES, 2.0)).axes)
