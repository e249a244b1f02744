"""Numbers to the geometry of small line charts. The template draws them as SVG inside the page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 8, 34  # room for the axes
HUGE = 1e100  # a number beyond is as missing as infinity; below 1 / HUGE it is zero
MAX_POINTS = 240  # more cannot be told apart at this width; neighbours are averaged


@dataclass(frozen=True)
class Line:
    """One curve: its name, its SVG path (gaps where a value is missing) and its last value."""

    label: str
    path: str
    last: str


@dataclass(frozen=True)
class Chart:
    """A chart ready to draw; ticks are pixel and label."""

    title: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    log: bool

    @property
    def summary(self) -> str:
        """The chart in words, for those who do not see it."""
        scale = ", logarithmic scale" if self.log else ""
        return f"{self.title} by training step{scale}. " + "; ".join(
            f"{line.label} ends at {line.last}" for line in self.lines
        )


def chart(title: str, series: Mapping[str, Sequence[tuple[float, float | None]]], *, log: bool = False) -> Chart | None:
    """Lay out curves of (step, value); None if there is no finite value.

    `log` asks for a logarithmic axis and is ignored if a value is not above zero.
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
        path, pen = "", "M"
        for step, value in points:
            if value is not None:
                path += f"{pen}{x(step):.1f} {y(value):.1f}"
            pen = "M" if value is None else "L"
        final = next((value for _, value in reversed(points) if value is not None), None)
        if final is not None:
            lines.append(Line(label, path, number(final)))
    x_ticks = [(x(tick), _short(tick)) for tick in _ticks(first, last, 5) if first <= tick <= last]
    return Chart(title, lines, x_ticks, [(y(tick), _short(tick)) for tick in y_values], log)


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
