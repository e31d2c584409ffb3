"""Languages: how a program of each is built and run, what tool that takes, and how to install it."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from serve_apps.sandbox.sandbox import SYSTEM_FOLDERS
from starloom.errors import UserError


@dataclass(frozen=True)
class Language:
    """One language. Commands name tools and files; they run in the folder of the program.

    `extra` are Debian packages of libraries that MultiPL-E's tests use. `virtual_memory` is False for runtimes that
    reserve far more addresses than they use: their memory is watched instead of limited by address space.
    """

    name: str
    aliases: tuple[str, ...]
    file: str
    run: tuple[str, ...]
    tools: tuple[str, ...]
    install: str
    build: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    build_cpu_seconds: float = 20.0
    run_cpu_seconds: float = 5.0
    virtual_memory: bool = True
    processes: int = 128


def _apt(*packages: str) -> str:
    return "apt-get install " + " ".join(packages)


LANGUAGES = (
    Language("Python", ("py", "python3"), "program.py", ("python",), (), "always there"),
    Language("C", ("c",), "program.c", ("./program",), ("gcc",), _apt("gcc", "libc6-dev"),
             build=("gcc", "-O1", "-o", "program", "program.c", "-lm")),
    Language("C++", ("cpp", "c++", "cc"), "program.cpp", ("./program",), ("g++",), _apt("g++"),
             build=("g++", "-std=c++17", "-o", "program", "program.cpp")),
    Language("Java", ("java",), "Main.java", ("java", "-ea", "-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
             "-cp", "classes:tuples", "Problem"), ("javac", "java"), _apt("default-jdk-headless"),
             build=("javac", "-encoding", "UTF8", "-J-XX:TieredStopAtLevel=1", "-d", "classes", "-cp", "tuples",
                    "Main.java"),
             virtual_memory=False, processes=512, run_cpu_seconds=15.0),
    Language("JavaScript", ("js", "javascript", "node"), "program.js", ("node", "program.js"), ("node",),
             _apt("nodejs"), virtual_memory=False, processes=256),
    Language("TypeScript", ("ts", "typescript"), "program.ts", ("node", "program.js"), ("tsc", "node"),
             _apt("nodejs", "node-typescript"), build=("tsc", "--target", "esnext", "program.ts"),
             virtual_memory=False, processes=256),
    Language("Go", ("go", "go_test.go"), "program_test.go", ("./program.test",), ("go",), _apt("golang-go"),
             build=("env", "GO111MODULE=off", "GOPATH=/usr/share/gocode", "go", "test", "-c", "-o", "program.test",
                    "program_test.go"),
             virtual_memory=False, processes=512, build_cpu_seconds=60.0),
    Language("Rust", ("rs", "rust"), "program.rs", ("./program",), ("rustc",), _apt("rustc"),
             build=("rustc", "--edition", "2021", "-A", "warnings", "-o", "program", "program.rs"),
             virtual_memory=False),
    Language("Rust tests", ("rust_test",), "program.rs", ("./program", "--test-threads=1"), ("rustc",), _apt("rustc"),
             build=("rustc", "--test", "--edition", "2021", "-A", "warnings", "-o", "program", "program.rs"),
             virtual_memory=False),
    Language("PHP", ("php",), "program.php", ("php", "program.php"), ("php",), _apt("php-cli")),
    Language("Ruby", ("rb", "ruby"), "program.rb", ("ruby", "program.rb"), ("ruby",),
             _apt("ruby", "ruby-test-unit"), extra=("ruby-test-unit",)),
    Language("Perl", ("pl", "perl"), "program.pl", ("perl", "program.pl"), ("perl",),
             _apt("perl", "libtest-deep-perl"), extra=("libtest-deep-perl",)),
    Language("Lua", ("lua",), "program.lua", ("lua5.4", "program.lua"), ("lua5.4",),
             _apt("lua5.4", "lua-unit"), extra=("lua-unit",)),
    Language("R", ("r",), "program.r", ("Rscript", "--vanilla", "program.r"), ("Rscript",), _apt("r-base-core")),
    Language("Bash", ("sh", "bash"), "program.sh", ("bash", "program.sh"), ("bash",), _apt("bash")),
    Language("C#", ("cs", "csharp"), "program.cs",
             ("env", "MONO_TRACE_LISTENER=Console.Error", "mono", "program.exe"), ("mcs", "mono"), _apt("mono-mcs"),
             build=("mcs", "-d:DEBUG", "-r:System.Numerics.dll", "-out:program.exe", "program.cs"),
             virtual_memory=False, processes=256),
    Language("D", ("d",), "program.d", ("./program",), ("gdc",), _apt("gdc"),
             build=("gdc", "-funittest", "-o", "program", "program.d")),
    Language("Julia", ("jl", "julia"), "program.jl", ("julia", "--startup-file=no", "program.jl"), ("julia",),
             "https://julialang.org/downloads", virtual_memory=False, processes=256, run_cpu_seconds=15.0),
    Language("Racket", ("rkt", "racket"), "program.rkt", ("racket", "program.rkt"), ("racket",), _apt("racket"),
             virtual_memory=False, run_cpu_seconds=15.0),
    Language("Scala", ("scala",), "program.scala", ("scala", "-cp", "classes", "-Dfile.encoding=UTF8", "Problem"),
             ("scalac", "scala"), _apt("scala"),
             build=("bash", "-c", "mkdir classes && scalac -d classes program.scala"),
             virtual_memory=False, processes=512, build_cpu_seconds=60.0, run_cpu_seconds=15.0),
    Language("Swift", ("swift",), "program.swift", ("./program",), ("swiftc",), "https://swift.org/install",
             build=("swiftc", "-o", "program", "program.swift"), virtual_memory=False, build_cpu_seconds=60.0),
    Language("Haskell", ("hs", "haskell"), "program.hs", ("./program",), ("ghc",), _apt("ghc"),
             build=("ghc", "-v0", "-o", "program", "program.hs"), virtual_memory=False, build_cpu_seconds=60.0),
    Language("OCaml", ("ml", "ocaml"), "program.ml", ("ocaml", "program.ml"), ("ocaml",), _apt("ocaml-nox")),
    Language("Clojure", ("clj", "clojure"), "program.clj", ("clojure", "program.clj"), ("clojure",),
             _apt("clojure"), virtual_memory=False, processes=512, run_cpu_seconds=15.0),
    Language("Dart", ("dart",), "program.dart", ("dart", "run", "program.dart"), ("dart",),
             "https://dart.dev/get-dart", virtual_memory=False, processes=256, run_cpu_seconds=15.0),
    Language("Elixir", ("ex", "exs", "elixir"), "program.exs", ("elixir", "program.exs"), ("elixir",),
             _apt("elixir"), virtual_memory=False, processes=512, run_cpu_seconds=15.0),
    Language("Ada", ("adb", "ada"), "program.adb", ("./main",), ("gnatchop", "gnatmake"), _apt("gnat"),
             build=("bash", "-c", "gnatchop -w program.adb &&"
                    " gnatmake -q -gnat2022 -gnatW8 -gnata -gnateE -o main main.adb")),
)  # fmt: skip


def language(name: str) -> Language:
    """The language of that name or alias.

    Raises:
        UserError: there is none.
    """
    wanted = name.lower()
    for known in LANGUAGES:
        if wanted == known.name.lower() or wanted in known.aliases:
            return known
    raise UserError(f"language {name!r} is unknown; known: {', '.join(known.name for known in LANGUAGES)}")


@dataclass(frozen=True)
class Toolchain:
    """Where the tools of a language are; `missing` names those that are not there."""

    language: Language
    paths: dict[str, str]
    missing: tuple[str, ...]
    folders: tuple[str, ...]  # to bind besides the system's

    @property
    def present(self) -> bool:
        """Whether programs of the language can be run."""
        return not self.missing


@cache
def toolchain(known: Language) -> Toolchain:
    """Look for the tools of a language."""
    paths: dict[str, str] = {}
    folders: list[str] = []
    missing = []
    for tool in known.tools:
        found = _rustc() if tool == "rustc" else shutil.which(tool)
        if found is None:
            missing.append(tool)
            continue
        paths[tool] = found
        prefix = Path(found).resolve().parent.parent
        if not any(str(prefix).startswith(folder) for folder in SYSTEM_FOLDERS):
            folders.append(str(prefix))
    return Toolchain(known, paths, tuple(missing), tuple(folders))


def _rustc() -> str | None:
    """The compiler itself: what rustup puts on the path only starts it, and from a home folder."""
    found = shutil.which("rustc")
    if found is None or found.startswith("/usr/"):
        return found
    asked = subprocess.run([found, "--print", "sysroot"], capture_output=True, text=True, timeout=60, check=False)
    path = Path(asked.stdout.strip()) / "bin" / "rustc"
    return str(path) if asked.returncode == 0 and path.is_file() else None


def present_folders() -> list[str]:
    """Folders to bind for all languages that are there."""
    return sorted({folder for known in LANGUAGES for folder in toolchain(known).folders})


def command_words(known: Language, words: Sequence[str]) -> list[str]:
    """A command line with its tools' full paths.

    Raises:
        UserError: the toolchain is missing.
    """
    tools = toolchain(known)
    if not tools.present:
        raise UserError(f"{known.name}: {', '.join(tools.missing)} is not installed; {known.install}")
    return [tools.paths.get(word, word) for word in words]


def toolchain_table() -> str:
    """What is there, what is missing and how to install it, as text."""
    lines = []
    for known in LANGUAGES:
        tools = toolchain(known)
        state = ", ".join(tools.paths.values()) or "this interpreter"
        if not tools.present:
            state = f"missing: {', '.join(tools.missing)}; install with: {known.install}"
        elif known.extra:
            state += f" (MultiPL-E also needs {', '.join(known.extra)})"
        lines.append(f"{'✓' if tools.present else '✗'} {known.name:<11} {state}")
    there = sum(toolchain(known).present for known in LANGUAGES)
    return "\n".join([*lines, f"{there} of {len(LANGUAGES)} languages can be run here"])
