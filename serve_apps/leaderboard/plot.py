"""Score against throughput as an inline SVG."""

import html
import math
from collections.abc import Sequence

from serve_apps.leaderboard.board import Board

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 340, 56, 48, 20, 130
LINE = 15.0  # between the base lines of two labels
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25)
MOST_TICKS = 6
LONGEST_NAME = 24


def scatter(board: Board) -> str:
    """Average pass@1 over tokens per second at batch 50 (logarithmic), a dot a model; empty without measurements."""
    measured = [(row.model, max(1.0, row.throughput_50), row.average) for row in board.rows
                if row.throughput_50 and row.average is not None]  # fmt: skip
    if not measured:
        return ""
    speeds = _speeds([speed for _, speed, _ in measured])
    scores = score_ticks(max(score for _, _, score in measured))

    def x(speed: float) -> float:
        share = math.log(speed / speeds[0]) / math.log(speeds[-1] / speeds[0])
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(score: float) -> float:
        return HEIGHT - BOTTOM - score / scores[-1] * (HEIGHT - BOTTOM - TOP)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="average pass@1 against tokens per second">']
    for score in scores:
        at = y(score)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.0f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{at + 4:.0f}" text-anchor="end">{100 * score:g} %</text>')
    for speed in speeds:
        label = f"{speed:,.0f}"
        parts.append(f'<text class="tick" x="{x(speed):.0f}" y="{HEIGHT - 28}" text-anchor="middle">{label}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    dots = [(x(speed), y(score), name) for name, speed, score in measured]
    for (at, up, name), label_y in zip(dots, label_places([up for _, up, _ in dots]), strict=True):
        shown = html.escape(name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…")
        parts.append(f'<path class="lead" d="M{at:.1f} {up:.1f}L{at + 8:.1f} {label_y:.1f}"/>')
        parts.append(
            f'<circle class="dot" cx="{at:.1f}" cy="{up:.1f}" r="5"><title>{html.escape(name)}</title></circle>'
        )
        parts.append(f'<text class="name" x="{at + 10:.1f}" y="{label_y + 4:.1f}">{shown}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">tokens/s, batch 50</text>')
    return "".join([*parts, "</svg>"])


def score_ticks(highest: float) -> list[float]:
    """Round scores from 0 to at least the highest, at most six steps."""
    step = next((step for step in STEPS if highest <= step * (MOST_TICKS - 1)), STEPS[-1])
    return [round(step * n, 4) for n in range(max(1, math.ceil(highest / step - 1e-9)) + 1)]


def _speeds(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times powers of ten around the values; powers alone over more than two of them."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 1e-9)
    factors = (1, 2, 5) if high - low <= 2 else (1,)
    ticks = [factor * 10.0**power for power in range(low, high + 1) for factor in factors]
    first = max([tick for tick in ticks if tick <= min(values)], default=ticks[0])
    last = min([tick for tick in ticks if tick >= max(values)], default=ticks[-1])
    found = [tick for tick in ticks if first <= tick <= last]
    return found if len(found) > 1 else [first, first * 10]


def label_places(heights: Sequence[float]) -> list[float]:
    """Where labels stand so that none covers another: as near to their dots as the order allows."""
    order = sorted(range(len(heights)), key=lambda n: heights[n])
    places = [0.0] * len(heights)
    above = -math.inf
    for n in order:
        above = places[n] = max(heights[n], above + LINE)
    below = max(HEIGHT - BOTTOM, places[order[-1]]) if order else 0.0
    overflow = below - (HEIGHT - BOTTOM)
    for n in reversed(order) if overflow > 0 else ():
        places[n] = min(places[n], below - overflow)
        below = places[n] - LINE + overflow
    return places
