"""Line and bar charts as inline SVG: no script, no font, no network; colours come from the page's CSS variables."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 42
SERIES_COLOURS = ("var(--series-1)", "var(--series-2)", "var(--series-3)", "var(--series-4)")


@dataclass(frozen=True)
class Series:
    """Points of one line, in order of x."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    marks: bool = False  # a dot on each point: for few, separate measurements


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover [low, high], about `count` of them (steps of 1, 2 or 5 times a power of ten)."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return []
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw * 0.999)
    first = math.floor(low / step)
    last = math.ceil(high / step)
    return [n * step for n in range(first, last + 1)]


def number(value: float) -> str:
    """A short form for axis labels: 1200000 is 1.2M."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scaled = value / (1e3 if suffix == "k" else limit)
            return f"{scaled:g}{suffix}"
    return f"{round(value, 6):g}"


def line_chart(series: Sequence[Series], *, x_label: str, y_label: str, title: str) -> str:
    """Lines over a common x axis; points that are not finite break the line."""
    points = [(x, y) for line in series for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    if not points:
        return ""
    x_ticks = ticks(min(x for x, _ in points), max(x for x, _ in points))
    y_ticks = ticks(min(y for _, y in points), max(y for _, y in points))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for value in y_ticks:
        _, y = place(x_ticks[0], value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for value in x_ticks:
        x, _ = place(value, y_ticks[0])
        y = HEIGHT - BOTTOM + 18
        parts.append(f'<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{number(value)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="label" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    turned = f'transform="rotate(-90 14 {HEIGHT / 2 - 14})"'
    parts.append(
        f'<text class="label" x="14" y="{HEIGHT / 2 - 14}" text-anchor="middle" {turned}>{escape(y_label)}</text>'
    )
    for line, colour in zip(series, SERIES_COLOURS, strict=False):
        parts += _line(line, colour, place)
    parts.append("</svg>")
    legend = "".join(
        f'<span class="key"><i style="background:{colour}"></i>{escape(line.name)}</span>'
        for line, colour in zip(series, SERIES_COLOURS, strict=False)
    )
    return f"<figure>{''.join(parts)}<figcaption>{legend}</figcaption></figure>"


def _line(line: Series, colour: str, place: Callable[[float, float], tuple[float, float]]) -> list[str]:
    commands, drawing = [], False
    parts = []
    for x, y in zip(line.x, line.y, strict=True):
        if not math.isfinite(y):
            drawing = False
            continue
        across, down = place(x, y)
        commands.append(f"{'L' if drawing else 'M'}{across:.1f} {down:.1f}")
        drawing = True
        if line.marks:
            hint = f"<title>{escape(line.name)}: {y:.4g} at {number(x)}</title>"
            parts.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4" fill="{colour}">{hint}</circle>')
    parts.insert(0, f'<path d="{"".join(commands)}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return parts
