"""A table of texts, for terminals and for pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, slots=True)
class Table:
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_text(self) -> str:
        """Columns in line; the first to the left, figures to the right."""
        grid = [self.heads, *self.rows]
        widths = [max(len(row[i]) for row in grid) for i in range(len(self.heads))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in grid
        )

    def as_html(self) -> str:
        def line(tag: str, cells: Sequence[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        rows = [line("th", self.heads), *(line("td", row) for row in self.rows)]
        return "<table>" + "".join(rows) + "</table>"
