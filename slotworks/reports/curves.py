"""Numbers to the geometry of small line charts. The template draws them as SVG inside the page, `picture` as a PNG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 8, 34  # room for the axes
HUGE = 1e100  # a number beyond is as missing as infinity; below 1 / HUGE it is zero
MAX_POINTS = 240  # more cannot be told apart at this width; neighbours are averaged


def finite_number(value: object) -> float | None:
    """A number as a chart can show it; None for anything else, as for what is as good as infinite.

    >>> finite_number(2), finite_number("2"), finite_number(10**400), finite_number(-1e308)
    (2.0, None, None, None)
    """
    return float(value) if isinstance(value, int | float) and abs(value) < HUGE else None


@dataclass(frozen=True)
class Line:
    """One curve: its name, its points in pixels, in pieces where values are missing, and its last value."""

    label: str
    pieces: list[list[tuple[float, float]]]
    last: str

    @property
    def path(self) -> str:
        """As SVG has it."""
        return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in piece) for piece in self.pieces)


@dataclass(frozen=True)
class Chart:
    """A chart ready to draw; ticks are pixel and label."""

    title: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    log: bool
    along: str = "step"  # what the horizontal axis counts

    @property
    def summary(self) -> str:
        """The chart in words, for those who do not see it."""
        scale = ", logarithmic scale" if self.log else ""
        along = "training step" if self.along == "step" else self.along
        return f"{self.title} by {along}{scale}. " + "; ".join(
            f"{line.label} ends at {line.last}" for line in self.lines
        )


def chart(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float | None]]],
    *,
    log: bool = False,
    along: str = "step",
) -> Chart | None:
    """Lay out curves of (step, value); None if there is no finite value.

    `log` asks for a logarithmic axis and is ignored if a value is not above zero; `along` says what is counted instead
    of steps.
    """
    curves = {label: _thinned(points) for label, points in series.items()}
    steps = [step for points in series.values() for step, _ in points]
    values = [value for points in curves.values() for _, value in points if value is not None]
    if not values:
        return None
    log = log and min(values) > 1 / HUGE
    low, high = min(values), max(values)
    if log:
        low, high, y_values = _log_range(low, high)
    else:
        low, high, y_values = _linear_range(low, high)
    first, last = min(steps), max(steps)

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((step - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        share = (math.log(value / low) / math.log(high / low)) if log else (value - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    lines = []
    for label, points in curves.items():
        runs = groupby(points, key=lambda point: point[1] is None)
        pieces = [[(x(step), y(v)) for step, v in run if v is not None] for missing, run in runs if not missing]
        final = next((value for _, value in reversed(points) if value is not None), None)
        if final is not None:
            lines.append(Line(label, pieces, number(final)))
    x_ticks = [(x(tick), _short(tick)) for tick in _ticks(first, last, 5) if first <= tick <= last]
    return Chart(title, lines, x_ticks, [(y(tick), _short(tick)) for tick in y_values], log, along)


COLORS = ("#0072b2", "#d55e00", "#009e73", "#a3467f", "#8a6d00", "#4a4a4a")
"""Of the lines, as in the page."""


def picture(charts: Sequence[Chart], *, scale: int = 2) -> Image.Image:
    """Charts side by side on white, with a dot at every point."""
    font, small = ImageFont.load_default(13 * scale), ImageFont.load_default(11 * scale)
    title, legend, gap = 24, 18 * max(len(one.lines) for one in charts), 16
    size = (len(charts) * (WIDTH + gap) + gap, title + HEIGHT + legend + gap)
    sheet = Image.new("RGB", (scale * size[0], scale * size[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for number_of, one in enumerate(charts):
        left, top = gap + number_of * (WIDTH + gap), title

        def at(x: int | float, y: int | float, left: int = left, top: int = top) -> tuple[float, float]:
            return float(scale * (left + x)), float(scale * (top + y))

        draw.text(at(LEFT, 4 - title), one.title, "#1f2328", font)
        for y, text in one.y_ticks:
            draw.line([at(LEFT, y), at(WIDTH - RIGHT, y)], "#e9ebee", scale)
            draw.text(at(LEFT - 6, y), text, "#5b636d", small, anchor="rm")
        for x, text in one.x_ticks:
            draw.line([at(x, HEIGHT - BOTTOM), at(x, HEIGHT - BOTTOM + 4)], "#5b636d", scale)
            draw.text(at(x, HEIGHT - BOTTOM + 5), text, "#5b636d", small, anchor="ma")
        draw.line([at(LEFT, HEIGHT - BOTTOM), at(WIDTH - RIGHT, HEIGHT - BOTTOM)], "#5b636d", scale)
        draw.text(at(WIDTH - RIGHT, HEIGHT - 1), one.along, "#5b636d", small, anchor="rs")
        for i, line in enumerate(one.lines):
            color = COLORS[i % len(COLORS)]
            for piece in line.pieces:
                points = [at(x, y) for x, y in piece]
                draw.line(points, color, 2 * scale)
                for x, y in points:
                    draw.ellipse([x - 3 * scale, y - 3 * scale, x + 3 * scale, y + 3 * scale], color)
            draw.line([at(LEFT, HEIGHT + 9 + 18 * i), at(LEFT + 24, HEIGHT + 9 + 18 * i)], color, 2 * scale)
            draw.text(at(LEFT + 32, HEIGHT + 9 + 18 * i), f"{line.label}, {line.last}", "#1f2328", small, anchor="lm")
    return sheet


def number(value: float) -> str:
    """Four digits that matter: 0.8613, 12.35, 3.7e-5."""
    return _plain(f"{value:.4g}") if abs(value) >= 1e-3 or value == 0 else _plain(f"{value:.3e}")


def _short(value: float) -> str:
    """A tick label: 7k, 0.25, 1e-5."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1e12:
            return f"{value / size:g}{letter}"
    return _plain(f"{value:.3g}") if 1e-3 <= abs(value) < 1e12 or value == 0 else _plain(f"{value:.2e}")


def _plain(text: str) -> str:
    """3.700e-05 as 3.7e-5."""
    digits, e, power = text.partition("e")
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) + (f"e{int(power)}" if e else "")


def _thinned(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """Averages of neighbours, at most `MAX_POINTS`; a group without a finite value is a gap (None)."""
    size = math.ceil(len(points) / MAX_POINTS)
    thinned: list[tuple[float, float | None]] = []
    for start in range(0, len(points), max(size, 1)):
        group = points[start : start + size]
        finite = [value for _, value in group if value is not None and abs(value) < HUGE]  # False for NaN
        thinned.append((sum(step for step, _ in group) / len(group), sum(finite) / len(finite) if finite else None))
    return thinned


def _ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) from at most `low` to at least `high`."""
    span = next(size for size in (high - low, abs(high), 1.0) if size > 1e-300)  # smaller ones have no logarithm
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * count >= span)
    return [index * step for index in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _linear_range(low: float, high: float) -> tuple[float, float, list[float]]:
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1 / HUGE):  # a constant curve runs through the middle
        room = abs(low) / 2 if abs(low) > 1 / HUGE else 0.5
        low, high = low - room, high + room
    ticks = _ticks(low, high, 5)
    return ticks[0], ticks[-1], ticks


def _log_range(low: float, high: float) -> tuple[float, float, list[float]]:
    if high / low < 1 + 1e-9:
        low, high = low / 2, high * 2
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = range(first, last + 1 + (last - first) // 6, 1 + (last - first) // 6)
    factors = (1, 2, 5) if high / low < 100 else (1,)
    ticks = [factor * 10.0**decade for decade in decades for factor in factors]
    low = max((tick for tick in ticks if tick <= low), default=low)
    high = min((tick for tick in ticks if tick >= high), default=high)
    return low, high, [tick for tick in ticks if low <= tick <= high]
