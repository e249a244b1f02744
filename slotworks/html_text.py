"""HTML of what an object shows of itself in a notebook. Words, which may come from files, are escaped."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image


def table(rows: Iterable[Sequence[object]], *, head: Sequence[object] = ()) -> str:
    """A table of words and numbers; what is HTML already, such as a `picture`, is kept as it is."""
    lines = ["".join(f"<th>{_cell(one)}</th>" for one in head)] if head else []
    lines += ["".join(f'<td style="text-align: left">{_cell(one)}</td>' for one in row) for row in rows]
    return Html(f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>")


def folded(summary: object, content: str) -> str:
    """Content that a click on its summary shows."""
    return Html(f"<details><summary>{_cell(summary)}</summary>{_cell(content)}</details>")


def picture(image: Image.Image, *, about: str = "", height: int | None = None) -> str:
    """A picture inside the page; small ones are enlarged without smoothing to `height` pixels."""
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    content = base64.b64encode(file.getvalue()).decode("ascii")
    size = f' height="{height}" style="image-rendering: pixelated"' if height else ""
    return Html(f'<img alt="{escape(about)}" src="data:image/png;base64,{content}"{size}>')


class Html(str):
    """Text that was made here and is not escaped again."""


def _cell(value: object) -> str:
    return value if isinstance(value, Html) else escape(str(value))
