"""Numbers to charts, drawn by matplotlib: lines as SVG inside a page or as a PNG, and bars with their spread as a PNG.

A chart in a page needs no script: every point says what it is to the pointer that rests on it, and colours are those of
the page, so that they follow it into the dark. matplotlib is imported when something is drawn.
"""

import importlib.util
import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slotworks.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HUGE = 1e100  # a number beyond is as missing as infinity; below 1 / HUGE it is zero
MAX_POINTS = 240  # more cannot be told apart at this width; neighbours are averaged
MAX_NAMED = 60  # points of a line that say what they are: a pointer cannot tell more apart

WIDTH, HEIGHT = 340, 200  # of a chart in a page
LINES = (("#0072b2", "-"), ("#d55e00", (0, (4, 2))), ("#009e73", (0, (1, 1.5))))
LINES += (("#a3467f", (0, (5, 2, 1, 2))), ("#8a6d00", "-"), ("#4a4a4a", (0, (2, 2))))
"""Colours and dashes, told apart without seeing colours."""
INK, QUIET, GRID = "#1f2328", "#5b636d", "#e9ebee"
BAR, REFERENCE, MARK = "#7fa7d6", "#c9cdd4", "#e64b46"
OF_THE_PAGE = {color: f"var(--line{i})" for i, (color, _) in enumerate(LINES)}
OF_THE_PAGE |= {QUIET: "var(--quiet)", GRID: "var(--grid)"}

UNUSED = ("<metadata>.*?</metadata>", "<defs>.*?</defs>", "<!--.*?-->", r"font-family: [^;\"]*;?")
UNUSED += (r' (?:id|clip-path|version|xmlns(?::\w+)?|width="\d+pt" height)="[^"]*"', r' transform="rotate\(-0 [^"]*"')
"""Of the SVG that matplotlib writes: nothing is clipped or used twice, and the font is that of the page."""

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "slotworks",  # the same numbers give the same file
    "text.parse_math": False,  # a dollar is a dollar
    "axes.autolimit_mode": "round_numbers",
    "axes.xmargin": 0,
    "axes.ymargin": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": QUIET,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.bottom": False,
    "ytick.left": False,
    "text.color": INK,
    "lines.linewidth": 1.8,
    "lines.solid_joinstyle": "round",
    "font.size": 11,
}


def finite_number(value: object) -> float | None:
    """A number as a chart can show it; None for anything else, as for what is as good as infinite.

    >>> finite_number(2), finite_number("2"), finite_number(10**400), finite_number(-1e308)
    (2.0, None, None, None)
    """
    return float(value) if isinstance(value, int | float) and abs(value) < HUGE else None


def can_draw() -> bool:
    """Whether matplotlib is here; an installation that was brought up to date by half may lack it."""
    return importlib.util.find_spec("matplotlib") is not None


@dataclass(frozen=True)
class Line:
    """One curve: its name, its points, None where a value is missing, and its last value in words."""

    label: str
    points: list[tuple[float, float | None]]
    last: str


@dataclass(frozen=True)
class Chart:
    """Curves that share their axes."""

    title: str
    lines: list[Line]
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
    """Curves of (step, value) as a chart; None where no curve has two finite values, since a point is no curve.

    `log` asks for a logarithmic axis and is ignored if a value is not above zero or all lie within a decade; `along`
    says what is counted instead of steps.
    """
    lines, values = [], []
    for label, points in series.items():
        thinned = _thinned(points)
        finite = [value for _, value in thinned if value is not None]
        if finite:
            lines.append(Line(label, thinned, number(finite[-1])))
            values += finite
    if not any(sum(value is not None for _, value in line.points) > 1 for line in lines):
        return None
    log = log and min(values) > 1 / HUGE and max(values) / 10 > min(values)
    return Chart(title, lines, log, along)


def as_svg(one: Chart) -> str:
    """A chart as an element of a page, in colours that the page names, its points with titles."""
    with _style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
        axes = figure.add_axes((54 / WIDTH, 34 / HEIGHT, (WIDTH - 54 - 12) / WIDTH, (HEIGHT - 34 - 8) / HEIGHT))
        _draw(axes, one)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
        points = "".join(_named_points(axes, one))
    text = written.getvalue()
    text = text[text.index("<svg") : text.rindex("</svg>")]
    for unused in UNUSED:
        text = re.sub(unused, "", text, flags=re.DOTALL)
    for color, name in OF_THE_PAGE.items():
        text = text.replace(color, name)
    label = f'<svg role="img" aria-label="{escape(one.summary)}"'
    return re.sub(r"\n\s*", "\n", text.replace("<svg", label, 1)) + points + "</svg>"


def write_png(charts: Sequence[Chart], path: Path) -> None:
    """Charts side by side on white, with a dot at every point and a legend below each."""
    with _style():
        from matplotlib.figure import Figure

        rows = max(len(one.lines) for one in charts)
        height = HEIGHT + 40 + 18 * rows
        figure = Figure(figsize=(len(charts) * (WIDTH + 16) / 72, height / 72), dpi=144, layout="constrained")
        for axes, one in zip(figure.subplots(1, len(charts), squeeze=False)[0], charts, strict=True):
            _draw(axes, one, marker="o", markersize=5)
            axes.set_title(one.title, loc="left")
            axes.legend(
                [f"{line.label}, {line.last}" for line in one.lines],
                loc="upper left",
                bbox_to_anchor=(0, -0.2),
                frameon=False,
                fontsize=9,
            )
        figure.savefig(path, format="png")


def bars(rows: Sequence[Mapping[str, Any]], names: Sequence[str], title: str) -> "Figure":
    """One panel for each metric, side by side; one bar for each variant, a whisker of its spread, a dot for each seed.

    The first variant of each group is grey, and a line across the group marks it. Axes go from 0 to 100 percent, or as
    far as values go.

    Args:
        rows: of `group`, `variant`, `diverged`, `failed` and `metrics`, as `slotworks.reports.sweep.write_sweep` takes.
        names: metrics, a panel each.
        title: above them.

    Returns:
        A figure for `save`.
    """
    places, marks, y = [], [], 0.0
    for i, row in enumerate(rows):
        if row["group"] and (i == 0 or rows[i - 1]["group"] != row["group"]):
            marks.append((y + 0.15, str(row["group"]).replace("_", " ")))
            y += 1
        places.append(y)
        y += 1
    longest = max((len(str(row["variant"])) for row in rows), default=0)
    size = (1.5 + 0.08 * longest + 3.6 * max(len(names), 1), 1.3 + 0.3 * y)
    with _style():
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter

        figure = Figure(figsize=size, dpi=100, layout="constrained")
        figure.suptitle(_text(title), x=0.01, ha="left")
        panels = figure.subplots(1, max(len(names), 1), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=False):
            _panel(axes, rows, places, name)
            axes.set_title(_text(name), loc="left", fontsize=11)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}"))
            axes.grid(visible=True, axis="x")
            axes.grid(visible=False, axis="y")
        panels[0].set_ylim(y - 0.4, -0.6)
        ticks = [(place, str(row["variant"])) for place, row in zip(places, rows, strict=True)] + marks
        panels[0].set_yticks([place for place, _ in ticks], [_text(text) for _, text in ticks])
        for text in panels[0].get_yticklabels()[len(rows) :]:
            text.set_fontweight("bold")
    return figure


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG."""
    with _style():
        figure.savefig(path, format="png")


def number(value: float) -> str:
    """Four digits that matter: 0.8613, 12.35, 3.7e-5."""
    return _plain(f"{value:.4g}") if abs(value) >= 1e-3 or value == 0 else _plain(f"{value:.3e}")


@contextmanager
def _style() -> Iterator[None]:
    """Drawn the same everywhere, whatever style a user has set; silent about signs that the font lacks."""
    if not can_draw():
        raise UserError("Charts are drawn by matplotlib, which is missing here; run `pip install matplotlib`.")
    import matplotlib.style

    with warnings.catch_warnings(), matplotlib.style.context(["default", STYLE]):
        warnings.simplefilter("ignore")
        yield


def _draw(axes: "Axes", one: Chart, **options: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    for i, line in enumerate(one.lines):
        color, dashes = LINES[i % len(LINES)]
        values = [math.nan if value is None else value for _, value in line.points]
        steps = [step for step, _ in line.points]
        axes.plot(steps, values, color=color, linestyle=dashes, clip_on=False, **options)
    steps = [step for line in one.lines for step, _ in line.points]
    first, last = min(steps), max(steps)
    if one.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=7))
        axes.minorticks_off()
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlim(first, last if last > first else first + 1)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.set_xlabel(one.along, loc="right", labelpad=1)


def _named_points(axes: "Axes", one: Chart) -> Iterator[str]:
    """Circles to rest a pointer on, each with the name of its line, its step and its value."""
    for i, line in enumerate(one.lines):
        known = [(step, value) for step, value in line.points if value is not None]
        for step, value in known[:: math.ceil(len(known) / MAX_NAMED)]:
            x, y = axes.transData.transform((step, value))
            title = escape(f"{line.label}: {number(value)} at {one.along} {step:,.10g}")
            place = f'class="point" style="color: var(--line{i % len(LINES)})" cx="{x:.1f}" cy="{HEIGHT - y:.1f}" r="4"'
            yield f"<circle {place}><title>{title}</title></circle>"


def _panel(axes: "Axes", rows: Sequence[Mapping[str, Any]], places: Sequence[float], name: str) -> None:
    values = [value for row in rows for value in row["metrics"].get(name, {}).get("seeds", ()) if value == value]
    low, high = min([0.0, *values]), max([1.0, *values])
    reference, group = None, None
    for row, y in zip(rows, places, strict=True):
        metric, first = row["metrics"].get(name), row["group"] != group
        group = row["group"]
        if metric is None:
            why = "failed" if row["failed"] else "diverged" if row["diverged"] else ""
            axes.text(low + 0.01 * (high - low), y, why, va="center", fontsize=10)
            reference = None if first else reference
            continue
        reference = metric["mean"] if first else reference
        axes.barh(y, metric["mean"], height=0.6, color=REFERENCE if first and row["group"] else BAR)
        axes.errorbar(metric["mean"], y, xerr=metric["std"], color=INK, linewidth=1)
        axes.plot(metric["seeds"], [y] * len(metric["seeds"]), ".", color=INK, markersize=5)
        if reference is not None and row["group"] and not first:
            axes.plot([reference] * 2, [y - 0.5, y + 0.5], color=MARK, linewidth=1)
    axes.set_xlim(low, high)


def _text(text: object) -> str:
    """As a font takes it: without halves of characters."""
    return str(text).encode("utf-8", "replace").decode()


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
