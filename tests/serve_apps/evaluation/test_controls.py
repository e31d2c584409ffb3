"""A completion that changes what its tests mean passes wrong ones too, and is found by that."""

from collections.abc import Iterator

import pytest

from serve_apps.sandbox.controls import NO_CONTROL, PASSES_WRONG_TESTS, wrong_tests
from serve_apps.sandbox.java import main_class
from serve_apps.sandbox.jobs import Program
from serve_apps.sandbox.sandbox import Limits, Sandbox
from serve_apps.sandbox.seals import NO_SEAL
from serve_apps.sandbox.toolchains import language, present_folders, toolchain
from tests.serve_apps.evaluation.tested_files import TESTED

CPP = "#include <cassert>\n#include <cstdlib>\n#include <cstdio>\nlong f(long a) { @ }\n%s\n"
CPP += "int main() {\n  assert(f((1)) == (2));\n}\n"
# language, and a whole file whose program does not do its task
FORGED = [
    ("C++", CPP.replace("@", "return 0;") % "#undef assert\n#define assert(x) ((void)0)"),
    ("C++", CPP.replace("@", "return 0;") % "#define f(...) 2 == 2 || 0"),
    (
        "C++",
        CPP.replace("@", "return 0;")
        % 'extern "C" void __assert_fail(const char*, const char*, unsigned, const char*) noexcept {}',
    ),
    (
        "C++",
        CPP.replace("@", "return 0;")
        % "struct Any { template<class T> bool operator==(T) const { return 3 == 3; } };\n#define f(x) Any{}",
    ),
    (
        "Rust",
        "fn f() -> i32 { 0 }\nmacro_rules! assert_eq { ($($t:tt)*) => {} }\nfn main() {\n    assert_eq!(f(), 1);\n}\n",
    ),
    (
        "JavaScript",
        "const f = () => 0;\nrequire('assert').deepEqual = () => {};\n"
        "function test() {\n  require('assert').deepEqual(f(), 1);\n}\n\ntest();\n",
    ),
    (
        "JavaScript",
        "console.assert = require('assert');\nconst f = () => 0;\nconsole.assert = () => {};\n"
        "const test = () => {\n  console.assert(f() === 1)\n}\ntest()\n",
    ),
    (
        "JavaScript",
        "const f = () => 0;\nprocess.on('uncaughtException', () => {\n"
        "  console.log('\\n' + require('fs').readFileSync(__filename, 'utf8').match(/sealed-[0-9a-f]{32}/)[0]);\n"
        "  process.exit(0) });\nfunction test() {\n  require('assert').deepEqual(f(), 1);\n}\n\ntest();\n",
    ),
    (
        "Perl",
        'sub f { return 0; }\nBEGIN { $INC{"Test/Deep.pm"} = 1; package Test::Deep;\n'
        '  sub import { no strict; *{caller() . "::eq_deeply"} = sub { 1 }; } }\nuse Test::Deep;\n'
        'sub test {\n  if(eq_deeply(f(), 1)) {\n    print "ok!" }else{\n    exit 1;\n  }\n}\n\ntest();\n',
    ),
    ("PHP", "no program, only text\nif (f() !== 1) { throw new Exception('no'); }\n"),
]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(folders=present_folders()) as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.parametrize(("name", "source"), FORGED, ids=[f"{name} {n}" for n, (name, _) in enumerate(FORGED)])
def test_program_that_changes_its_tests_does_not_pass(sandbox: Sandbox, name: str, source: str) -> None:
    if not toolchain(language(name)).present:
        pytest.skip(f"no toolchain of {name}")
    verdict = Program(name, source, tests_last=True).run(sandbox, Limits())
    assert verdict.status == "failed", verdict
    assert verdict.detail == PASSES_WRONG_TESTS or name == "PHP"


@pytest.mark.parametrize("name", [name for name in TESTED if name not in ("Bash", "Perl", "PHP")])
def test_each_language_has_a_wrong_test(name: str) -> None:
    source = TESTED[name].file
    wrong = next(wrong_tests(name, source))
    (place,) = [n for n, (a, b) in enumerate(zip(source.splitlines(), wrong.splitlines(), strict=True)) if a != b]
    assert "1" in source.splitlines()[place]


@pytest.mark.parametrize(
    ("name", "test", "wrong"),
    [
        ("Java", "    assert(f((5l)).equals((new ArrayList<Long>(Arrays.asList((long)4l)))));", "4l>74l"),
        ("Go", "     { actual: candidate(1), expected: []int{2, 8} },", "8>78"),
        ("Lua", "    lu.assertEquals(candidate(1), 'a')", "'a'>'7a'"),
        ("Lua", "    lu.assertEquals(candidate(1), {})", ""),
        ("JavaScript", "  assert.deepEqual(candidate(1),[]);", ""),
        ("JavaScript", "  assert.deepEqual(candidate(1),true);", "true>false"),
        ("PHP", '    if (candidate(1) !== "b") { throw new Exception("Test failed!"); }', '"b">"7b"'),
        ("Perl", '  if (f() == 1) { print "ok!" } else { exit 1; }', "1>71"),
        ("Go", '  if fmt.Sprint(f()) != "1" { t.Errorf("no") }', '"1">"71"'),
        ("R", "    if(!identical(candidate(c(1)), TRUE)){quit('no', 1)}", "TRUE>FALSE"),
        ("R", "    stopifnot(isTRUE(all.equal(candidate(1), c(2, 5))))", "5>75"),
        ("Ruby", "    assert_equal([2, 3], candidate.call(1))", "[2>[72"),
        ("Ruby", "    assert_equal(nil, candidate.call(1))", ""),
        ("Bash", '    [[ $(candidate "1") = "2 3" ]]', '"2 3">"72 3"'),
        ("Racket", "    (check-equal? (candidate 1) #t)", "#t>#f"),
        ("Rust", '    assert_eq!(candidate(1), vec![String::from("a")]);', '"a">"7a"'),
        ("C++", "    assert(candidate((1.5)) == (0.5));", "0.5>70.5"),
        ("C++", "    assert(candidate((1)) == (std::vector<long>()));", ""),
    ],
)
def test_what_a_test_expects_is_what_is_changed(name: str, test: str, wrong: str) -> None:
    if not wrong:
        assert list(wrong_tests(name, test)) == []
        return
    before, _, after = wrong.partition(">")
    head, _, tail = test.rpartition(before) if name not in ("Ruby", "Perl") else test.partition(before)
    assert list(wrong_tests(name, test)) == [head + after + tail]


def test_a_pass_without_seal_or_control_says_so(sandbox: Sandbox) -> None:
    verdict = Program("Bash", "true", tests_last=True).run(sandbox, Limits())
    assert (verdict.status, verdict.detail) == ("passed", NO_CONTROL)
    assert "without a seal" in NO_SEAL


MAIN = "class Problem {\n  @\n  public static void main(String[] args) { }\n}\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (MAIN.replace("@", "// no helper class is needed\n  /* class Other { */"), "Problem"),
        (MAIN.replace("@", "String s = \"class Other {\", t = \"\\\"\"; char c = '{', d = '\\'';"), "Problem"),
        (MAIN.replace("@", 'String s = """\n  class Other {\n  "quoted" """;'), "Problem"),
        (MAIN.replace("@", "static class Inner<T> extends Base { int x; }"), "Problem"),
        (MAIN.replace("@", "long f() { class Local { void g() { } } return 1; }"), "Problem"),
        (MAIN.replace("@", "record P(int x) { } enum E { A, B { } } interface I { void f(); }"), "Problem"),
        (MAIN.replace("@", "Object o = String.class;"), "Problem"),
        (MAIN.replace("@", "") + "class After { int x; }\n", "Problem"),
        ("class Other { public static void main(String[] a) { } }\n" + MAIN.replace("@", ""), "Problem"),
        ("class Outer { static class Inner { public static void main(String... a) { } } }", "Outer$Inner"),
        ("class A { int static_void_main; }", None),
    ],
)
def test_main_class_is_parsed(source: str, expected: str | None) -> None:
    assert main_class(source) == expected
