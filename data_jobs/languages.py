"""Which language a file is in, by the table in languages.toml."""

import fnmatch
import hashlib
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

from pydantic import field_validator, model_validator

from starloom.config import Config, read_toml, validate
from starloom.errors import UserError

GUESS_CHARACTERS = 20_000  # of a file are read to tell languages with the same extension apart
BUILT_IN = Path(__file__).with_name("languages.toml")
_SHEBANG = re.compile(r"#!\s*(?:\S*/)?(?:env\s+(?:-S\s+)?(?:\w+=\S+\s+)*)?(?:\S*/)?([A-Za-z][\w.+-]*)")


# how The Stack and others spell names that are not linguist's
_ALIASES = {
    "c sharp": "c#",
    "csharp": "c#",
    "cpp": "c++",
    "c plus plus": "c++",
    "f sharp": "f#",
    "fsharp": "f#",
    "golang": "go",
    "js": "javascript",
    "ts": "typescript",
    "sh": "shell",
    "bash": "shell",
    "protobuf": "protocol buffer",
    "latex": "tex",
    "rst": "restructuredtext",
    "visual basic .net": "visual basic",
    "vba": "visual basic",
    "viml": "vim script",
    "docker": "dockerfile",
    "common lisp": "common lisp",
    "emacs lisp": "emacs lisp",
    "elisp": "emacs lisp",
    "jupyter notebook": "jupyter notebook",
    "objective c": "objective-c",
    "objective c++": "objective-c++",
}


class Language(Config):
    """One language with the limits of its quality rules."""

    name: str
    extensions: tuple[str, ...] = ()
    filenames: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()  # of file names, with * and ?
    interpreters: tuple[str, ...] = ()
    selection: Literal["starcoder", "more"] = "starcoder"
    line_limits: bool = True
    alphabetic: float | None = None
    alphabetic_extensions: tuple[str, ...] | None = None
    characters: tuple[int, int] | None = None


class Guess(Config):
    """A language that a pattern in the text speaks for; a name outside the table means that the file is dropped."""

    language: str
    pattern: str

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The pattern; ``^`` and ``$`` stand at lines."""
        return re.compile(self.pattern, re.MULTILINE)

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern


class Ambiguous(Config):
    """An extension of several languages: the first guess whose pattern is found, else `default`, else dropped."""

    extension: str
    guesses: tuple[Guess, ...]
    default: str | None = None


class LanguageTable(Config):
    """The whole table; extensions and file names belong to one language each, but for the ambiguous ones."""

    languages: tuple[Language, ...]
    ambiguous: tuple[Ambiguous, ...] = ()

    @model_validator(mode="after")
    def _one_owner_each(self) -> "LanguageTable":
        owners: dict[str, str] = {}
        for language in self.languages:
            for key in (*(f"*.{e}" for e in language.extensions), *language.filenames, *language.patterns):
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
    def _by_pattern(self) -> list[tuple[re.Pattern[str], str]]:
        return [
            (re.compile(fnmatch.translate(pattern)), language.name)
            for language in self.table.languages
            for pattern in language.patterns
        ]

    @cached_property
    def _by_lower_name(self) -> dict[str, str]:
        return {language.name.lower(): language.name for language in self.table.languages}

    @cached_property
    def _by_interpreter(self) -> dict[str, str]:
        return {program: language.name for language in self.table.languages for program in language.interpreters}

    @cached_property
    def _ambiguous(self) -> dict[str, Ambiguous]:
        return {entry.extension: entry for entry in self.table.ambiguous}

    @cached_property
    def by_name(self) -> dict[str, Language]:
        """The languages by name."""
        return {language.name: language for language in self.table.languages}

    def of(self, path: str, content: str) -> str | None:
        """The language of a file: by its whole name, by its extension (and its text, where several share it), by #!."""
        if self._of_name(posixpath.basename(path)) is None:
            ambiguous = self._ambiguous.get(extension_of(path))
            if ambiguous is not None:
                return self._guess(ambiguous, content)
        return self.of_path(path) or self.of_content(content)

    def _guess(self, ambiguous: Ambiguous, content: str) -> str | None:
        head = content[:GUESS_CHARACTERS]
        found = next((guess.language for guess in ambiguous.guesses if guess.compiled.search(head)), ambiguous.default)
        return found if found in self.by_name else None

    def of_path(self, path: str) -> str | None:
        """The language that a path tells: by the whole file name first, then by the extension."""
        return self._of_name(posixpath.basename(path)) or self._by_extension.get(extension_of(path))

    def _of_name(self, filename: str) -> str | None:
        if filename in self._by_filename:
            return self._by_filename[filename]
        return next((name for pattern, name in self._by_pattern if pattern.match(filename)), None)

    def named(self, name: str) -> str | None:
        """The language of that name, whatever its case, as the table spells it; also by the names that others use."""
        lowered = " ".join(name.lower().replace("-", " ").replace("_", " ").split())
        known = self._by_lower_name
        return known.get(name.lower()) or known.get(lowered) or known.get(_ALIASES.get(lowered, ""))

    def selected(self, selection: str | Sequence[str]) -> frozenset[str]:
        """The names that a selection means: ``all``, ``starcoder``, or a list of names.

        Raises:
            UserError: the table has no language of a name.
        """
        if selection == "all":
            return frozenset(self.by_name)
        if selection == "starcoder":
            return frozenset(name for name, language in self.by_name.items() if language.selection == "starcoder")
        found = {name: self.named(name) for name in selection}
        unknown = sorted(name for name, language in found.items() if language is None)
        if unknown:
            raise UserError(f"selection: no language {', '.join(map(repr, unknown))} in the table; see languages.toml")
        return frozenset(name for name in found.values() if name)

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


def table_state(path: str | None) -> str:
    """A hash of the table, so that an edit of it makes the steps that read it stale."""
    load_languages(path)
    return hashlib.sha256((Path(path) if path else BUILT_IN).read_bytes()).hexdigest()
