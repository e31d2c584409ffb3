"""The table of languages, ambiguous extensions, file names and first lines."""

from pathlib import Path

import pytest

from data_jobs.languages import load_languages
from starloom.errors import UserError

LANGUAGES = load_languages()


def test_built_in_table_has_the_86_languages_and_two_formats_and_what_teams_have_beside() -> None:
    assert len(LANGUAGES.selected("starcoder")) == 88
    assert LANGUAGES.selected("starcoder") < LANGUAGES.selected("all") == set(LANGUAGES.by_name)
    assert LANGUAGES.selected(["python", "C-Sharp", "common-lisp"]) == {"Python", "C#", "Common Lisp"}
    with pytest.raises(UserError, match="selection: no language 'Klingon' in the table"):
        LANGUAGES.selected(["Python", "Klingon"])


@pytest.mark.parametrize(
    ("path", "content", "language"),
    [
        ("a.py", "", "Python"),
        ("A.PY", "", "Python"),
        ("Dockerfile", "FROM x\n", "Dockerfile"),
        ("sub/CMakeLists.txt", "", "CMake"),
        ("Makefile", "", "Makefile"),
        ("notes.txt", "words", None),
        ("run", "#!/usr/bin/env python3\n", "Python"),
        ("run", "#!/usr/bin/env -S node --x\n", "JavaScript"),
        ("run", "#!/bin/bash -e\n", "Shell"),
        ("run", "no first line\n", None),
        ("a.h", "int f(void);\n", "C"),
        ("a.h", "namespace a {\nclass B {\n", "C++"),
        ("a.h", "@interface Foo : Bar\n", "Objective-C"),
        ("a.m", "function y = f(x)\n  y = x;\nend\n", "MATLAB"),
        ("a.m", "#import <Foundation/Foundation.h>\n", "Objective-C"),
        ("a.m", ":- module hello.\n", "Mercury"),
        ("Dockerfile.prod", "FROM x\n", "Dockerfile"),
        ("t.mustache", "<html>{{x}}</html>\n", "Mustache"),
        ("t.mustache", "FROM {{base}}\nRUN make\n", "Dockerfile"),
        ("a.ron", "(x: 1)\n", "RON"),
        ("a.ron", "# A heading\n", "Markdown"),
        ("a.shader", 'Shader "Custom/X" {\n', "ShaderLab"),
        ("a.shader", "#version 330\n", "GLSL"),
        ("a.d", "module x;\nimport std.stdio;\n", "D"),
        ("a.d", "a.o: a.c b.h\n", "Makefile"),
        ("a.inc", "<?php\n", "PHP"),
        ("a.inc", "words only\n", None),
        ("App.jsx", "", "JavaScript"),
        ("a.pyi", "", "Python"),
        ("a.vue", "", "Vue"),
        ("build.gradle", "", "Groovy"),
        ("main.tf", "", "Terraform"),
        ("a.toml", "", "TOML"),
        ("a.m", "(* a comment *)\nBeginPackage[x]\n", "Mathematica"),
        ("a.pl", "use strict;\nmy $x = 1;\n", "Perl"),
        ("a.pl", "parent(X, Y) :- father(X, Y).\n", "Prolog"),
        ("a.t", "use Test::More;\n", "Perl"),
        ("a.t", "var x : int\n", None),
        ("a.r", "x <- c(1, 2)\n", "R"),
        ("a.r", "REBOL [title: x]\n", None),
        ("a.fs", "let x = 1\n", "F#"),
        ("a.fs", "#version 330\nvoid main() {}\n", "GLSL"),
        ("a.ts", "export const x = 1;\n", "TypeScript"),
        ("a.ts", '<?xml version="1.0"?>\n<TS version="2.1">\n', None),
        ("a.v", "module top(input a);\nendmodule\n", "Verilog"),
        ("a.v", "Theorem t : True.\nProof.\n", "Coq"),
        ("a.v", "fn main() {\n", "V"),
    ],
)
def test_language_of_a_file(path: str, content: str, language: str | None) -> None:
    assert LANGUAGES.of(path, content) == language


def test_table_of_ones_own_decides_and_its_mistakes_are_one_line(tmp_path: Path) -> None:
    table = tmp_path / "mine.toml"
    table.write_text('[[languages]]\nname = "Nim"\nextensions = ["nim"]\n')
    assert load_languages(str(table)).of("a.nim", "") == "Nim"
    assert load_languages(str(table)).of("a.py", "") is None
    twice = tmp_path / "twice.toml"
    twice.write_text('[[languages]]\nname = "A"\nextensions = ["x"]\n[[languages]]\nname = "B"\nextensions = ["x"]\n')
    with pytest.raises(UserError, match=r"'\*\.x' belongs to A and to B"):
        load_languages(str(twice))
    broken = tmp_path / "broken.toml"
    broken.write_text('languages = []\n[[ambiguous]]\nextension = "x"\nguesses = [{language = "A", pattern = "("}]\n')
    with pytest.raises(UserError, match="not a regular expression"):
        load_languages(str(broken))
