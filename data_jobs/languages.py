"""Which language a file is in, by the table in languages.toml."""

import posixpath
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from pydantic import model_validator

from starloom.config import Config, read_toml, validate

BUILT_IN = Path(__file__).with_name("languages.toml")
_SHEBANG = re.compile(r"#!\s*(?:\S*/)?(?:env\s+(?:-S\s+)?(?:\w+=\S+\s+)*)?(?:\S*/)?([A-Za-z][\w.+-]*)")


class Language(Config):
    """One language with the limits of its quality rules."""

    name: str
    extensions: tuple[str, ...] = ()
    filenames: tuple[str, ...] = ()
    interpreters: tuple[str, ...] = ()
    line_limits: bool = True
    alphabetic: float | None = None
    alphabetic_extensions: tuple[str, ...] | None = None
    characters: tuple[int, int] | None = None


class LanguageTable(Config):
    """The whole table; extensions and file names belong to one language each."""

    languages: tuple[Language, ...]

    @model_validator(mode="after")
    def _one_owner_each(self) -> "LanguageTable":
        owners: dict[str, str] = {}
        for language in self.languages:
            for key in (*(f"*.{e}" for e in language.extensions), *language.filenames):
                if key in owners:
                    raise ValueError(f"{key!r} belongs to {owners[key]} and to {language.name}; keep one")
                owners[key] = language.name
        return self


@dataclass(frozen=True)
class Languages:
    """Look-up in a table."""

    table: LanguageTable

    @cached_property
    def _by_extension(self) -> dict[str, str]:
        return {extension: language.name for language in self.table.languages for extension in language.extensions}

    @cached_property
    def _by_filename(self) -> dict[str, str]:
        return {filename: language.name for language in self.table.languages for filename in language.filenames}

    @cached_property
    def _by_interpreter(self) -> dict[str, str]:
        return {program: language.name for language in self.table.languages for program in language.interpreters}

    @cached_property
    def by_name(self) -> dict[str, Language]:
        """The languages by name."""
        return {language.name: language for language in self.table.languages}

    def of_path(self, path: str) -> str | None:
        """The language that a path tells: by the whole file name first, then by the extension."""
        filename = posixpath.basename(path)
        if filename in self._by_filename:
            return self._by_filename[filename]
        return self._by_extension.get(extension_of(path))

    def of_content(self, content: str) -> str | None:
        """The language of the interpreter in a first line that begins with ``#!``."""
        if not content.startswith("#!"):
            return None
        found = _SHEBANG.match(content.split("\n", 1)[0])
        if not found:
            return None
        program = found[1]
        return self._by_interpreter.get(program) or self._by_interpreter.get(re.sub(r"[\d.]+$", "", program))


def extension_of(path: str) -> str:
    """The part after the last dot of the file name, lower case; empty when there is none."""
    stem, dot, extension = posixpath.basename(path).rpartition(".")
    return extension.lower() if dot and stem else ""


@lru_cache(maxsize=8)
def load_languages(path: str | None = None) -> Languages:
    """The table of a file, or the built-in one."""
    location = Path(path) if path else BUILT_IN
    return Languages(validate(LanguageTable, read_toml(location), where=str(location)))
