"""Charts: what the page and the pictures show of numbers, read from what was drawn."""

import html
import math
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slotworks.reports.charts import HEIGHT, MAX_NAMED, MAX_POINTS, WIDTH, as_svg, bars, chart, number


def titles(svg):
    return [html.unescape(text) for text in re.findall(r"<title>(.*?)</title>", svg)]


def centres(svg):
    return [(float(x), float(y)) for x, y in re.findall(r'cx="([-\d.]+)" cy="([-\d.]+)"', svg)]


def labels(svg):
    return [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def points(*values, every=1.0):
    return [(i * every, value) for i, value in enumerate(values)]


def test_every_point_says_what_it_is():
    svg = as_svg(chart("loss", {"a<b": points(0.0, 0.25, 1.0, every=50.0)}))
    assert titles(svg) == ["a<b: 0 at step 0", "a<b: 0.25 at step 50", "a<b: 1 at step 100"]
    (left, low), (middle, between), (right, high) = centres(svg)
    assert middle - left == pytest.approx(right - middle, abs=0.11)
    assert low - between == pytest.approx((low - high) / 4, abs=0.11)
    assert labels(svg)[-7:] == ["step", "0", "0.2", "0.4", "0.6", "0.8", "1"]
    line = re.search(r'd="M ([\d.]+) ([\d.]+) \nL [\d. ]+\nL ([\d.]+) ([\d.]+) \n" style="fill: none; stroke: var', svg)
    assert [float(at) for at in line.groups()] == pytest.approx([left, low, right, high], abs=0.06)


def test_an_element_of_a_page_needs_nothing_from_elsewhere():
    svg = as_svg(chart("$x$", {"a": points(1.0, 2.0), "$b_$": points(2.0, 3.0)}, along="frames"))
    assert svg.startswith('<svg role="img" aria-label="$x$ by frames. a ends at 2; $b_$ ends at 3"')
    assert "var(--line0)" in svg
    assert "var(--line1)" in svg
    assert not re.search(r"url\(|<script|href|<style|@import|DejaVu| id=", svg)
    assert svg == as_svg(chart("$x$", {"a": points(1.0, 2.0), "$b_$": points(2.0, 3.0)}, along="frames"))


def test_decades_are_equally_far_apart_on_a_log_axis():
    drawn = chart("loss", {"a": points(1.0, 0.1, 0.001)}, log=True)
    top, middle, bottom = [y for _, y in centres(as_svg(drawn))]
    assert (middle - top) * 2 == pytest.approx(bottom - middle, abs=0.2)
    assert labels(as_svg(drawn))[-4:] == ["0.001", "0.01", "0.1", "1"]
    assert "logarithmic" in drawn.summary


@pytest.mark.parametrize("values", [(1.0, 0.0), (1.0, -1.0), (2.0, 3.0)])
def test_a_log_axis_is_not_used_for_zero_nor_within_a_decade(values):
    assert not chart("loss", {"a": points(*values)}, log=True).log


def test_missing_values_are_gaps():
    drawn = chart("loss", {"a": points(1.0, 2.0, None, math.nan, 1.5, 2.0), "b": points(None)})
    assert [line.label for line in drawn.lines] == ["a"]
    assert [text.rpartition(" ")[2] for text in titles(as_svg(drawn))] == ["0", "1", "4", "5"]
    (path,) = re.findall(r'd="([^"]*)" style="fill: none; stroke: var\(--line0\)', as_svg(drawn))
    assert [letter for letter in path if letter in "ML"] == ["M", "L", "M", "L"]


@pytest.mark.parametrize("series", [{"a": points(None, math.inf)}, {}, {"a": points(0.5)}, {"a": points(None, 1.0)}])
def test_no_chart_of_nothing_or_of_a_single_point(series):
    assert chart("loss", series) is None


def test_long_curves_are_averaged_and_keep_their_last_level():
    drawn = chart("loss", {"a": points(*[5.0] * 9000, *[1.0] * 1000)})
    assert len(drawn.lines[0].points) <= MAX_POINTS
    assert len(titles(as_svg(drawn))) <= MAX_NAMED
    assert drawn.lines[0].last == "1"


@pytest.mark.parametrize("value", [0.0, 2e-4, -7.0, 1e9])
def test_a_constant_is_level_and_inside(value):
    heights = [
        y for _, y in centres(as_svg(chart("lr", {"a": points(*[value] * 1000)})))
    ]  # averages differ by rounding
    assert max(heights) - min(heights) < 0.11
    assert 20 < heights[0] < HEIGHT - 50


@example(values=[0.0, 0.0], step=5e-324, log=False)
@example(values=[-1e99, 1e99, 1e-99], step=1.0, log=True)
@settings(max_examples=10, deadline=None)
@given(
    values=st.lists(st.floats(allow_nan=True, allow_infinity=True) | st.none(), min_size=1, max_size=30),
    step=st.floats(0, 1e9),
    log=st.booleans(),
)
def test_every_point_lies_inside_and_ticks_are_few(values, step, log):
    drawn = chart("x", {"a": points(*values, every=step)}, log=log)
    if drawn is None:
        return
    svg = as_svg(drawn)
    for x, y in centres(svg):
        assert 53 <= x <= WIDTH - 11
        assert 7 <= y <= HEIGHT - 33
    assert 3 <= len(labels(svg)) <= 18
    assert all(len(text) <= 9 for text in labels(svg))


def test_bars_are_as_long_as_their_means_and_whiskers_as_the_spread():
    metric = {"mean": 0.5, "std": 0.125, "seeds": [0.375, 0.625]}
    row = {"group": "", "variant": "a", "diverged": 0, "failed": [], "metrics": {"fg_ari": metric}}
    lost = row | {"group": "$g$_h", "variant": "b", "failed": ["Out of memory."], "metrics": {}}
    (panel,) = bars([row, lost], ["fg_ari"], "title").axes
    assert [bar.get_width() for bar in panel.patches] == [0.5]
    assert [list(bar.get_segments()[0][:, 0]) for bar in panel.collections] == [[0.375, 0.625]]
    assert [list(line.get_xdata()) for line in panel.lines if line.get_marker() == "."] == [[0.375, 0.625]]
    assert [text.get_text() for text in panel.texts] == ["failed"]
    assert [text.get_text() for text in panel.get_yticklabels()] == ["a", "b", "$g$ h"]
    assert panel.get_xlim() == (0, 1)


def test_numbers():
    values = (0.86131, 12.345, 1234567.0, 3.7e-5, 0.0, 1.0, -0.5, 2.5e-4)
    assert [number(value) for value in values] == ["0.8613", "12.35", "1.235e6", "3.7e-5", "0", "1", "-0.5", "2.5e-4"]
