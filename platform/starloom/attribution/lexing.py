"""What the lexer of renamed windows takes for a constant, and how languages write comments. Frozen: indexes hold it."""

from functools import cache

import numpy as np

from starloom.attribution.kernel import DASHES, HASH, SLASHES

KEYWORDS = tuple(
    """
    if else elif for while do switch case default break continue return goto in not and or is None True False true
    false null nil undefined self this super class struct enum union interface trait impl fn func function def
    lambda let var val const static final public private protected extern inline virtual override abstract void int
    char short long float double bool boolean byte unsigned signed string String size_t auto typedef template
    typename namespace using import from as package export module require include define ifdef ifndef endif new
    delete try catch except finally raise throw throws with yield async await go defer chan select map range type
    mut pub use mod match where loop move ref unsafe end begin then fi done esac local echo until elseif endif
    instanceof typeof sizeof print object extends implements assert pass global nonlocal del operator friend
    explicit volatile register
    """.split()  # noqa: SIM905 - a page of quotes otherwise
)
STYLES = (SLASHES, HASH, DASHES)  # what a query without a language is tried under
_BY_LANGUAGE = {
    SLASHES: "C|C++|C#|Objective-C|Java|Kotlin|Scala|Go|Rust|JavaScript|TypeScript|Groovy|CSS|SCSS|Less|Swift|Dart|CUDA"
    "|Protocol Buffer|Solidity|GLSL|Zig|Vue|Svelte|SystemVerilog|Verilog",
    HASH: "Python|Shell|Ruby|R|Perl|Elixir|YAML|Tcl|Dockerfile|Makefile|CMake|TOML|Julia|Nix|PowerShell|AWK|GraphQL",
    DASHES: "Lua|SQL|Haskell|Ada|VHDL|Elm",
    SLASHES | HASH: "PHP|HCL|Terraform",
}
_STYLE = {language: style for style, names in _BY_LANGUAGE.items() for language in names.split("|")}


def style_of(language: str | None) -> int:
    """The style of a language's comments, as bits; 0: none is dropped."""
    return _STYLE.get(language or "", 0)


def known_language(language: str) -> bool:
    """Whether the table says how its comments are written."""
    return language in _STYLE


@cache
def keyword_table() -> np.ndarray:
    """A hash table of the keywords, uint64 [1024], as `kernel.lexemes` wants it."""
    table = np.zeros(1024, np.uint64)
    mask = len(table) - 1
    for word in dict.fromkeys(KEYWORDS):
        h = 0xCBF29CE484222325
        for byte in word.encode():
            h = ((h ^ byte) * 0x100000001B3) & (2**64 - 1)
        h ^= h >> 33
        h = h * 0xFF51AFD7ED558CCD & (2**64 - 1)
        h ^= h >> 33
        h = h * 0xC4CEB9FE1A85EC53 & (2**64 - 1)
        h ^= h >> 33
        slot = h & mask
        while table[slot]:
            slot = (slot + 1) & mask
        table[slot] = h
    return table
