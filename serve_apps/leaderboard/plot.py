"""Score against throughput as an inline SVG."""

import html
import math

from serve_apps.leaderboard.board import Board, Row

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 320, 52, 40, 16, 150


def scatter(board: Board) -> str:
    """Average pass@1 over tokens per second at batch 50 (logarithmic), a dot a model; empty without measurements."""
    rows = [row for row in board.rows if row.throughput_50]
    if not rows:
        return ""
    speeds = [math.log10(_speed(row)) for row in rows]
    low, high = math.floor(min(speeds)), math.ceil(max(speeds) + 1e-9)
    high = max(high, low + 1)
    top = max(0.05, *(row.average for row in rows)) * 1.1

    def x(speed: float) -> float:
        return LEFT + (speed - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(score: float) -> float:
        return HEIGHT - BOTTOM - score / top * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="average pass@1 against tokens per second">',
        f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>',
    ]
    for power in range(low, high + 1):
        parts.append(
            f'<text class="tick" x="{x(power):.0f}" y="{HEIGHT - 22}" text-anchor="middle">{10**power:,}</text>'
        )
    for n in range(5):
        score = top * n / 4
        parts.append(f'<path class="grid" d="M{LEFT} {y(score):.0f}H{WIDTH - RIGHT}"/>')
        label = f"{100 * score:.0f} %"
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y(score) + 4:.0f}" text-anchor="end">{label}</text>')
    for row, speed in zip(rows, speeds, strict=True):
        at, up, name = x(speed), y(row.average), html.escape(row.model)
        parts.append(f'<circle class="dot" cx="{at:.1f}" cy="{up:.1f}" r="5"><title>{name}</title></circle>')
        parts.append(f'<text class="name" x="{at + 9:.1f}" y="{up + 4:.1f}">{name}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">tokens/s, batch 50</text>')
    return "".join([*parts, "</svg>"])


def _speed(row: Row) -> float:
    return max(1.0, row.throughput_50 or 1.0)
