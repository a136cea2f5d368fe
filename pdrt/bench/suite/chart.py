"""Scatter plots as SVG, so that a report needs no plotting library and opens in any browser."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 40, 50  # margins; the legend stands in the right one
COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#8a5fbf", "#c77f1b", "#4a4a4a", "#1aa6a6", "#a0522d")

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one colour, with a text for each that shows when pointed at; or a dashed line."""

    name: str
    points: Sequence[Point]
    texts: Sequence[str] = ()
    is_line: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a chart, from data to pixels."""

    label: str
    low: float
    high: float
    is_log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies between low (0) and high (1)."""
        low, high, at = (self._scaled(each) for each in (self.low, self.high, value))
        return (at - low) / (high - low)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.is_log else value

    def ticks(self) -> list[float]:
        """Round values between low and high: powers of ten, or about six steps."""
        if self.is_log:
            exponents = range(
                math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1
            )
            return [10.0**exponent for exponent in exponents]
        step = _round_step((self.high - self.low) / 6)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step) + 1)]


@dataclass(slots=True)
class Chart:
    """A plot of series; axes are chosen to hold them all."""

    title: str
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False
    series: list[Series] = field(default_factory=list)

    def svg(self) -> str:
        points = [point for each in self.series for point in each.points]
        x = axis(self.x_label, [point[0] for point in points], self.log_x)
        y = axis(self.y_label, [point[1] for point in points], self.log_y)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
            f' width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            _text(LEFT, TOP - 18, self.title, size=15),
            *_grid(x, y),
        ]
        for number, each in enumerate(self.series):
            colour = COLOURS[number % len(COLOURS)]
            parts += _line(each, x, y, colour) if each.is_line else _dots(each, x, y, colour)
            parts.append(_legend(number, each, colour))
        return "\n".join([*parts, "</svg>"]) + "\n"


def axis(label: str, values: Iterable[float], is_log: bool) -> Axis:
    """An axis with a little room beside the outermost values; from 0 where it is linear."""
    found = [value for value in values if math.isfinite(value) and (value > 0 or not is_log)]
    low, high = (min(found), max(found)) if found else (1.0, 10.0)
    if is_log:
        return Axis(label, low / 1.5, high * 1.5, is_log)
    return Axis(label, min(0.0, low), high * 1.08 if high > 0 else 1.0)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def _place(point: Point, x: Axis, y: Axis) -> Point:
    across, up = x.share(point[0]), y.share(point[1])
    return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def _grid(x: Axis, y: Axis) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for value in x.ticks():
        at, _ = _place((value, y.low), x, y)
        parts.append(_stroke((at, TOP), (at, bottom), "#e4e4e4"))
        parts.append(_text(at, bottom + 16, f"{value:g}", anchor="middle"))
    for value in y.ticks():
        _, at = _place((x.low, value), x, y)
        parts.append(_stroke((LEFT, at), (right, at), "#e4e4e4"))
        parts.append(_text(LEFT - 6, at + 4, f"{value:g}", anchor="end"))
    parts.append(_text((LEFT + right) / 2, HEIGHT - 12, x.label, anchor="middle"))
    middle = (TOP + bottom) / 2
    parts.append(
        f'<text x="16" y="{middle:.0f}" text-anchor="middle"'
        f' transform="rotate(-90 16 {middle:.0f})">{escape(y.label)}</text>'
    )
    return parts


def _dots(series: Series, x: Axis, y: Axis, colour: str) -> list[str]:
    parts = []
    for number, point in enumerate(series.points):
        across, down = _place(point, x, y)
        text = escape(series.texts[number]) if series.texts else ""
        parts.append(
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="5" fill="{colour}" fill-opacity="0.75">'
            f"<title>{text}</title></circle>"
        )
    return parts


def _line(series: Series, x: Axis, y: Axis, colour: str) -> list[str]:
    places = " ".join("{:.1f},{:.1f}".format(*_place(point, x, y)) for point in series.points)
    return [
        f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-dasharray="6 4"/>',
    ]


def _legend(number: int, series: Series, colour: str) -> str:
    at = TOP + 8 + 18 * number
    mark = f'<circle cx="{WIDTH - RIGHT + 16}" cy="{at - 4}" r="5" fill="{colour}"/>'
    return mark + _text(WIDTH - RIGHT + 28, at, series.name)


def _stroke(start: Point, end: Point, colour: str) -> str:
    return (
        f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
        f' stroke="{colour}"/>'
    )


def _text(x: float, y: float, text: str, size: int = 12, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )
