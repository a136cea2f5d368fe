"""Pictures as PNG, and pages of HTML that hold their pictures and need no other file.

matplotlib without pyplot: figures are values, and no window system or global state is touched.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from pdrt.bench.tables import Table

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { border-bottom: 1px solid #ddd; padding: .25rem .8rem; text-align: right }
td:first-child, th:first-child { text-align: left }
img { max-width: 100% } code, pre { font-size: 13px; white-space: pre-wrap }
"""


def figure(width: float = 10.0, height: float = 6.0) -> Figure:
    """An empty figure, in inches; `subplots` gives its axes."""
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def png(drawn: Figure) -> bytes:
    file = io.BytesIO()
    drawn.savefig(file, format="png")
    return file.getvalue()


Part = Table | bytes | str  # a picture is its PNG


def html(title: str, parts: Sequence[Part]) -> str:
    """A page of tables, PNG pictures and paragraphs, in order."""
    body = "\n".join(_part(part) for part in parts)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>\n{body}</html>\n"
    )


def _part(part: Part) -> str:
    if isinstance(part, Table):
        return part.as_html()
    if isinstance(part, bytes):
        return f'<img alt="" src="data:image/png;base64,{base64.b64encode(part).decode()}">'
    return f"<p>{escape(part)}</p>"


def beside(output: Path, suffix: str) -> Path:
    """The output's name with the suffix: chunk-1.5 becomes chunk-1.5.html. A .json is replaced."""
    stem = output.with_suffix("") if output.suffix == ".json" else output
    return stem.with_name(stem.name + suffix)


def write_page(output: Path, title: str, parts: Sequence[Part]) -> list[Path]:
    """Writes OUTPUT.html and, for the first picture, OUTPUT.png; returns the files."""
    output.parent.mkdir(parents=True, exist_ok=True)
    page = beside(output, ".html")
    page.write_text(html(title, parts))
    pictures = [part for part in parts if isinstance(part, bytes)]
    if not pictures:
        return [page]
    picture = beside(output, ".png")
    picture.write_bytes(pictures[0])
    return [page, picture]
