"""The language of files without an extension, by the model of `magika` (optional: ``pip install magika``)."""

from functools import lru_cache
from typing import Any

from data_jobs.languages import Languages
from starloom.errors import UserError

MIN_SCORE = 0.9
# magika's labels that do not equal our names in lower case
_LABELS = {
    "batch": "Batchfile",
    "cpp": "C++",
    "cs": "C#",
    "fsharp": "F#",
    "latex": "TeX",
    "objectivec": None,
    "proto": "Protocol Buffer",
    "rst": "reStructuredText",
    "vba": "Visual Basic",
}


def language_of_content(text: str, languages: Languages) -> str | None:
    """The language that magika is sure of, if it is one of the table's."""
    result = _model().identify_bytes(text.encode())
    if result.score < MIN_SCORE:
        return None
    label = str(result.output.label)
    by_lower = {name.lower(): name for name in languages.by_name}
    return _LABELS[label] if label in _LABELS else by_lower.get(label)


@lru_cache(maxsize=1)
def _model() -> Any:
    try:
        from magika import Magika
    except ImportError:
        raise UserError("nameless = 'magika': the package magika is not installed; pip install magika") from None
    return Magika()
