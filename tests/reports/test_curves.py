"""Geometry of the charts."""

import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slotworks.reports.curves import BOTTOM, HEIGHT, LEFT, MAX_POINTS, RIGHT, TOP, WIDTH, chart, number


def coordinates(path):
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path)]


def points(*values, every=1.0):
    return [(i * every, value) for i, value in enumerate(values)]


def test_a_line_goes_from_corner_to_corner():
    drawn = chart("loss", {"a": points(0.0, 1.0, every=100.0)})
    assert coordinates(drawn.lines[0].path) == [(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, TOP)]
    assert drawn.y_ticks[0] == (HEIGHT - BOTTOM, "0")
    assert drawn.y_ticks[-1] == (TOP, "1")
    assert [text for _, text in drawn.x_ticks] == ["0", "20", "40", "60", "80", "100"]


def test_decades_are_equally_far_apart_on_a_log_axis():
    drawn = chart("loss", {"a": points(1.0, 0.1, 0.001)}, log=True)
    top, middle, bottom = [y for _, y in coordinates(drawn.lines[0].path)]
    assert (middle - top) * 2 == pytest.approx(bottom - middle, abs=0.2)
    assert [text for _, text in drawn.y_ticks] == ["0.001", "0.01", "0.1", "1"]
    assert drawn.log
    assert "logarithmic" in drawn.summary


def test_a_log_axis_is_not_used_for_zero():
    assert not chart("loss", {"a": points(1.0, 0.0)}, log=True).log


def test_missing_values_are_gaps():
    drawn = chart("loss", {"a": points(1.0, 2.0, None, math.nan, 1.5, 2.0), "b": points(None)})
    assert [line.label for line in drawn.lines] == ["a"]
    assert [letter for letter in drawn.lines[0].path if letter in "ML"] == ["M", "L", "M", "L"]


def test_nothing_to_draw():
    assert chart("loss", {"a": points(None, math.inf)}) is None
    assert chart("loss", {}) is None


def test_long_curves_are_averaged_and_keep_their_last_level():
    drawn = chart("loss", {"a": points(*[5.0] * 9000, *[1.0] * 1000)})
    assert len(coordinates(drawn.lines[0].path)) <= MAX_POINTS
    assert drawn.lines[0].last == "1"


def test_a_constant_runs_through_the_middle():
    for value in (0.0, 2e-4, -7.0, 1e9):
        drawn = chart("lr", {"a": points(*[value] * 1000)})  # averages differ by rounding
        heights = [y for _, y in coordinates(drawn.lines[0].path)]
        assert max(heights) - min(heights) < 0.11
        assert TOP + 20 < heights[0] < HEIGHT - BOTTOM - 20


@example(values=[0.0, 0.0], step=5e-324, log=False)
@given(
    values=st.lists(st.floats(allow_nan=True, allow_infinity=True) | st.none(), min_size=1, max_size=30),
    step=st.floats(0, 1e9),
    log=st.booleans(),
)
def test_every_point_lies_inside_and_ticks_are_few(values, step, log):
    drawn = chart("x", {"a": points(*values, every=step)}, log=log)
    if drawn is None:
        return
    for x, y in coordinates(drawn.lines[0].path):
        assert LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1
        assert TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1
    assert 2 <= len(drawn.y_ticks) <= 13
    assert len(drawn.x_ticks) <= 8
    assert all(len(text) <= 9 for _, text in drawn.x_ticks + drawn.y_ticks)


def test_numbers():
    values = (0.86131, 12.345, 1234567.0, 3.7e-5, 0.0, 1.0, -0.5, 2.5e-4)
    assert [number(value) for value in values] == ["0.8613", "12.35", "1.235e6", "3.7e-5", "0", "1", "-0.5", "2.5e-4"]
