"""Pages from templates, and what of a report differs between two equal runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from starloom.artifact import Artifact

RUN_MARK: Final = "<!-- run -->"  # of a report: what differs between two equal runs is put there when it is published


@dataclass(frozen=True)
class Bar:
    """One row of a bar list; `share` is of the longest bar, 0 to 1."""

    label: str
    value: str
    share: float
    note: str = ""


def templates() -> Any:
    """The environment of the package's templates."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("starloom"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )


def with_run(
    page: str, artifacts: Sequence[Artifact], date: str, commit: str | None, lineage: Sequence[str] = ()
) -> str:
    """A report's page with when it was made, from which commit, the seconds of each step, and the model's lineage."""
    longest = max((a.manifest.seconds for a in artifacts), default=1) or 1
    bars = [Bar(a.name, f"{a.manifest.seconds:,.1f} s", a.manifest.seconds / longest) for a in artifacts]
    return page.replace(
        RUN_MARK, templates().get_template("run.html.j2").render(bars=bars, date=date, commit=commit, lineage=lineage)
    )
