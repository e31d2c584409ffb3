"""Places worth a look: documented functions first, gaps in their middle, and completions that end with the function."""

from serve_apps.evaluation.samples import Spot, finished, spots

FILE = '''\
import os


def plain(a):
    b = a + 1
    c = b + 1
    d = c + 1
    return d


class Thing:
    def told(self, name):
        """What it says.

        Twice.
        """
        first = self.words[name]
        second = first + first
        third = second.upper()
        return third
'''


def test_documented_functions_come_first_and_hold_their_docstring() -> None:
    first = next(spots(FILE, middle=False, fits=lambda text: True))
    assert first.prompt.endswith('        Twice.\n        """\n')
    assert first.suffix == ""
    assert first.indentation == 4


def test_a_gap_lies_in_the_middle_of_the_body() -> None:
    spot = next(spots(FILE, middle=True, fits=lambda text: True))
    assert spot.prompt.endswith("first = self.words[name]\n")
    assert spot.suffix == "        return third\n"


def test_what_does_not_fit_has_fewer_lines_before_it_or_is_left_out() -> None:
    spot = next(spots(FILE, middle=False, fits=lambda text: text.count("\n") < 7))
    assert spot.prompt.startswith("    def told") or spot.prompt.startswith("class Thing")
    assert list(spots(FILE, middle=False, fits=lambda text: False)) == []


def test_a_file_without_functions_goes_on_from_its_first_lines() -> None:
    spot = next(spots("x = 1\ny = 2\n", middle=True, fits=lambda text: True))
    assert spot == Spot("x = 1\ny = 2\n", "", -1)
    assert finished("z = 3\nw = 4\n", spot) == "z = 3\nw = 4\n"


def test_a_completion_ends_with_its_function() -> None:
    spot = Spot("def f(x):\n", "", 0)
    assert finished("    return x\n\n\ndef other():\n    pass\n", spot) == "    return x\n"
    assert finished("  return x;\n}\n\nint g() {", Spot("int f() {\n", "", 0)) == "  return x;\n}\n"
    gap = Spot("a", "b", 0)
    assert finished("x\ny\n", gap) == "x\ny\n"
