# ruff: noqa: E501 - programs as they are written
"""The judge and the program are two processes: right code of every kind passes, and no wrong one says that it is right.

Each row: what crosses between them, the program, the tests' set-up, the tests, the names that they take.
"""

from collections.abc import Iterator
from textwrap import dedent

import pytest

from serve_apps.sandbox.sandbox import Limits, Sandbox, Tests

RIGHT = {
    "nested argument changed in place": (
        "def f(grid):\n    for row in grid: row.reverse()\n    grid.append([0])",
        "",
        "g = [[1, 2], [3, 4]]\nrow = g[0]\nf(g)\nassert g == [[2, 1], [4, 3], [0]]\nassert g[0] is row and row == [2, 1]",
        "f",
    ),
    "dictionary, set and bytes changed in place": (
        "def f(d, s, b, q):\n    d['k'] = d.pop('j'); s.discard(1); b[0] = 66; q.appendleft(0)",
        "from collections import deque",
        "d, s, b, q = {'j': 1}, {1, 2}, bytearray(b'A'), deque([1])\nf(d, s, b, q)\n"
        "assert d == {'k': 1} and s == {2} and b == b'B' and q == deque([0, 1])",
        "f",
    ),
    "an argument comes back as itself": ("def f(a): a.append(1); return a", "", "x = []\nassert f(x) is x == [1]", "f"),
    "generator with send": (
        "def f():\n    got = yield 1\n    yield got + 1",
        "",
        "g = f()\nassert next(g) == 1 and g.send(4) == 5\nassert next(g, None) is None",
        "f",
    ),
    "iterators": (
        "def f(x): return zip(x, map(str, x))\ndef g(x): return reversed(x)",
        "",
        "assert list(f([1, 2])) == [(1, '1'), (2, '2')]\nassert list(g([1, 2])) == [2, 1]",
        "f g",
    ),
    "numbers, dates and containers of the library": (
        "from decimal import Decimal\nfrom fractions import Fraction\nimport datetime as d\nfrom collections import *\n"
        "def f(k): return {'a': Decimal('0.10'), 'b': Fraction(1, 3), 'c': d.datetime(2020, 2, 29, 1, 2, 3),\n"
        "    'd': d.timedelta(days=1), 'e': Counter('aab'), 'g': OrderedDict(a=1), 'h': range(1, 9, 2), 'i': 1 + 2j}[k]",
        "from decimal import Decimal\nfrom fractions import Fraction\nimport datetime as d\nfrom collections import *",
        "assert str(f('a')) == '0.10' and f('b') * 3 == 1 and f('c') == d.datetime(2020, 2, 29, 1, 2, 3)\n"
        "assert f('d').days == 1 and f('e').most_common(1) == [('a', 2)] and type(f('g')) is OrderedDict\n"
        "assert list(f('h')) == [1, 3, 5, 7] and f('i').imag == 2",
        "f",
    ),
    "tuples with names": (
        "from typing import NamedTuple\nclass P(NamedTuple):\n    x: int\n    y: list\ndef f(): return P(1, [2])",
        "",
        "x, y = f()\nassert f() == (1, [2]) and f().y == [2] and f()._asdict() == {'x': 1, 'y': [2]}",
        "f",
    ),
    "enumerations": (
        "import enum\nclass C(enum.Enum):\n    RED = 1\n    BLUE = 2\nclass N(enum.IntEnum):\n    ONE = 1\n"
        "def f(n): return C(n)\ndef g(): return N.ONE",
        "",
        "assert f(1).name == 'RED' and f(1) is f(1) and f(1) != f(2) and f(2) == C.BLUE and g() == 1",
        "f g C",
    ),
    "functions of the tests as arguments": (
        "def f(g, xs): return [g(x) for x in xs]\ndef h(key, xs): return sorted(xs, key=key)",
        "def own(x): return x * 2",
        "assert f(lambda v: v + 1, [1]) == [2] and f(own, [1]) == [2] and f(str, [1]) == ['1']\n"
        "import operator\nassert h(operator.itemgetter(1), [(1, 2), (2, 1)]) == [(2, 1), (1, 2)]",
        "f h",
    ),
    "functions of the program as results": (
        "def f(n):\n    seen = []\n    def g(x):\n        seen.append(x)\n        return x + n, len(seen)\n    return g",
        "",
        "g = f(2)\nassert g(1) == (3, 1) and g(1) == (3, 2) and callable(g)",
        "f",
    ),
    "decorators": (
        "def f(g):\n    def h(*a, **k):\n        h.calls += 1\n        return g(*a, **k)\n    h.calls = 0\n    return h",
        "",
        "@f\ndef add(a, b=1): return a + b\nassert add(1, b=2) == 3 and add(1) == 2 and add.calls == 2",
        "f",
    ),
    "an iterator of the tests": (
        "def f(it): return [x * 2 for x in it]",
        "def numbers():\n    yield 1\n    yield 2",
        "assert f(numbers()) == [2, 4] and f(iter([3])) == [6]",
        "f",
    ),
    "objects of the tests": (
        "def f(t): return t.value + sum(f(c) for c in t.children)\ndef mark(t): t.seen = True",
        "class T:\n    def __init__(self, value, *children): self.value, self.children = value, children",
        "t = T(1, T(2), T(3, T(4)))\nassert f(t) == 10\nmark(t)\nassert t.seen",
        "f mark",
    ),
    "the set-up uses the program's class": (
        "class Node:\n    def __init__(self, v): self.v, self.next = v, None\n"
        "def total(n): return 0 if n is None else n.v + total(n.next)",
        "head = Node(1)\nhead.next = Node(2)\nhead.next.next = Node(3)",
        "assert total(head) == 6 and head.next.next.next is None and isinstance(head, Node)",
        "Node total",
    ),
    "a class with operators": (
        "class V:\n    def __init__(self, *x): self.x = x\n    def __eq__(self, o): return self.x == getattr(o, 'x', o)\n"
        "    def __add__(self, o): return V(*(a + b for a, b in zip(self.x, o.x)))\n    def __len__(self): return len(self.x)\n"
        "    def __getitem__(self, n): return self.x[n]\n    def __lt__(self, o): return self.x < o.x\n"
        "    def __repr__(self): return f'V{self.x}'\n    def __contains__(self, y): return y in self.x\n"
        "    def __hash__(self): return hash(self.x)",
        "",
        "v = V(1, 2) + V(3, 4)\nassert v == V(4, 6) and v == (4, 6) and len(v) == 2 and v[1] == 6 and list(v) == [4, 6]\n"
        "assert repr(v) == 'V(4, 6)' and 4 in v and 5 not in v and sorted([v, V(1, 1)])[0] == V(1, 1)\n"
        "assert len({V(1), V(1), V(2)}) == 2",
        "V",
    ),
    "a class with a context, properties and class methods": (
        "class R:\n    opened = 0\n    def __enter__(self): R.opened += 1; return self\n"
        "    def __exit__(self, *e): R.opened -= 1; return e[0] is KeyError\n    @property\n    def double(self): return 4\n"
        "    @classmethod\n    def make(cls): return cls()\n    @staticmethod\n    def one(): return 1",
        "",
        "with R.make() as r:\n    assert R.opened == 1 and r.double == 4 and R.one() == 1\n    raise KeyError\n"
        "assert R.opened == 0",
        "R",
    ),
    "a list with methods of its own": (
        "class Stack(list):\n    def push(self, v): self.append(v)\n    def peek(self): return self[-1]",
        "",
        "s = Stack()\ns.push(1); s.push(2)\nassert s.peek() == 2 and s.pop() == 2 and len(s) == 1 and s[0] == 1",
        "Stack",
    ),
    "an exception class of the program": (
        "class Base(ValueError): pass\nclass Own(Base):\n    def __init__(self, code): super().__init__(f'no {code}'); self.code = code\n"
        "def f(c): raise Own(c)",
        "",
        "try: f(7)\nexcept Base as e: assert e.code == 7 and str(e) == 'no 7' and type(e).__name__ == 'Own'\nelse: assert 0\n"
        "try: f(8)\nexcept Own as e: assert e.code == 8\ntry: f(9)\nexcept ValueError: pass",
        "f Base Own",
    ),
    "an exception of the tests through the program": (
        "def f(g):\n    try: g()\n    finally: pass",
        "class Mine(Exception): pass\ndef bad(): raise Mine('m')",
        "try: f(bad)\nexcept Mine as e: assert e.args == ('m',)\nelse: assert 0",
        "f",
    ),
    "exceptions with their facts": (
        "def f(n):\n    if n == 0: return {}['k']\n    if n == 1: open('/none')\n    if n == 2: b'\\xff'.decode()\n"
        "    if n == 3:\n        import json; json.loads('{')",
        "",
        "def caught(n):\n    try: f(n)\n    except Exception as e: return e\n"
        "assert isinstance(caught(0), KeyError) and caught(0).args == ('k',) and str(caught(0)) == \"'k'\"\n"
        "assert isinstance(caught(1), FileNotFoundError) and caught(1).errno == 2 and caught(1).filename == '/none'\n"
        "assert isinstance(caught(2), UnicodeDecodeError) and caught(2).start == 0\nassert isinstance(caught(3), ValueError)",
        "f",
    ),
    "what is printed": (
        "import sys\ndef f():\n    print('out')\n    print('err', file=sys.stderr)",
        "import io, contextlib",
        "o, e = io.StringIO(), io.StringIO()\nwith contextlib.redirect_stdout(o), contextlib.redirect_stderr(e): f()\n"
        "assert o.getvalue() == 'out\\n' and e.getvalue() == 'err\\n'",
        "f",
    ),
    "what is typed in": (
        "def f(): return int(input()) + sum(map(int, input().split()))",
        "import io, sys",
        "sys.stdin = io.StringIO('1\\n2 3\\n')\nassert f() == 6",
        "f",
    ),
    "coroutines": (
        "import asyncio\nasync def f(x):\n    await asyncio.sleep(0.001)\n    return x + 1\n"
        "async def g():\n    for n in range(3):\n        yield n",
        "import asyncio",
        "assert asyncio.run(f(1)) == 2\nasync def both(): return [await f(1), await f(2), [x async for x in g()]]\n"
        "assert asyncio.run(both()) == [2, 3, [0, 1, 2]]",
        "f g",
    ),
    "signatures and names": (
        "def f(a, b=2, *c, d=None, **e):\n    'Says.'",
        "import inspect",
        "p = inspect.signature(f).parameters\nassert list(p) == ['a', 'b', 'c', 'd', 'e'] and p['b'].default == 2\n"
        "assert f.__name__ == 'f' and f.__doc__ == 'Says.' and f.__code__.co_argcount == 2",
        "f",
    ),
    "constants": ("LIMIT = [1, 2]\ndef f(): return LIMIT", "", "assert f() == LIMIT == [1, 2]", "f LIMIT"),
    "cycles and depth": (
        "def f():\n    a = {}\n    a['self'] = [a]\n    return a\ndef g():\n    a = ()\n    for _ in range(5000): a = (a,)\n    return a",
        "",
        "a = f()\nassert a['self'][0] is a\nx, n = g(), 0\nwhile x: x, n = x[0], n + 1\nassert n == 5000",
        "f g",
    ),
    "a function with the name of a builtin": ("def sum(a, b): return a + b", "", "assert sum(1, 2) == 3", "sum"),
    "dataclasses": (
        "from dataclasses import dataclass, field\n@dataclass(order=True)\nclass P:\n    x: int\n    y: list = field(default_factory=list)\n"
        "def f(): return P(1)",
        "import dataclasses",
        "assert f() == P(1) and f() != P(2) and P(1) < P(2) and repr(f()) == 'P(x=1, y=[])' and f().y == []",
        "f P",
    ),
    "a main guard does not run": (
        "def f(): return 1\nif __name__ == '__main__':\n    raise SystemExit(3)",
        "",
        "assert f() == 1",
        "f",
    ),
}  # fmt: skip

# what a program gives for `f(1, 2)`, of which the tests expect 3
WRONG = {
    "equal to everything": "class Y:\n    def __eq__(self, o): return True\ndef f(a, b): return Y()",
    "a number's class that is equal to everything": "class Y(int):\n    def __eq__(self, o): return True\ndef f(a, b): return Y(0)",
    "a difference of nothing": "class Y:\n    def __sub__(self, o): return 0\n    __rsub__ = __sub__\ndef f(a, b): return Y()",
    "between all numbers": "class Y:\n    def __lt__(self, o): return True\n    __gt__ = __le__ = __ge__ = __lt__\ndef f(a, b): return Y()",
    "a container of everything": "class Y(list):\n    def __contains__(self, o): return True\ndef f(a, b): return Y()",
    "a container of everything that is no list": "class Y:\n    def __contains__(self, o): return True\n    def __iter__(self): return iter(())\n"
    "def f(a, b): return Y()",
    "a function's name for such a class": "class f(int):\n    def __new__(cls, a, b): return int.__new__(cls, 0)\n"
    "    def __eq__(self, o): return True\n    def __sub__(self, o): return 0\n    def __contains__(self, o): return True",
    "the judge's own functions": "def f(a, b):\n    try: return show.__globals__['answer']\n    except Exception: return 0",
    "an end of iteration": "def f(a, b): raise StopIteration",
    "an exit": "def f(a, b): raise SystemExit(0)",
    "a failed assertion": "def f(a, b): raise AssertionError",
    "a class of the judge": "def f(a, b): return AssertionError",
}  # fmt: skip
EXPECTED = (
    "assert f(1, 2) == 3",
    "assert abs(f(1, 2) - 3) < 1e-6",
    "assert 2 < f(1, 2) < 4",
    "assert 3 in [f(1, 2)]",
    "assert [f(1, 2)] == [3]",
    "assert list(map(f, [1], [2])) == [3]",
    "for got, want in zip(map(f, [1, 1], [2, 2]), [3, 3], strict=True):\n    assert got == want",
    "import math\nassert math.isclose(f(1, 2), 3)",
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(Limits(cpu_seconds=5.0, wall_seconds=20.0)) as opened:
        yield opened


@pytest.mark.parametrize("kind", RIGHT)
def test_right_code_passes_and_its_broken_tests_fail(sandbox: Sandbox, kind: str) -> None:
    source, setup, tests, names = RIGHT[kind]
    verdict = sandbox.judge_python(source, Tests(setup, tests, tuple(names.split())))
    assert verdict.passed, verdict
    broken = sandbox.judge_python(source, Tests(setup, tests + "\nassert False, 'at the end'", tuple(names.split())))
    assert (broken.status, broken.detail) == ("failed", "AssertionError: at the end")


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_code_fails_whatever_it_says_of_itself(sandbox: Sandbox, kind: str) -> None:
    for tests in EXPECTED:
        verdict = sandbox.judge_python(WRONG[kind], Tests("answer = 3\ndef show(): pass", tests, ("f",)))
        assert verdict.status == "failed", (tests, verdict)
        assert sandbox.judge_python("def f(a, b): return a + b", Tests("", tests, ("f",))).passed


def test_a_program_uses_only_those_objects_of_the_tests_that_it_was_given(sandbox: Sandbox) -> None:
    setup = dedent("""
        answer = 3
        class Given:
            def method(self): return 1
            def ask(self, f): return f(self)
        def show(): return 1
        def made(): yield 1
    """)
    for stolen in (
        "given.method.__func__.__globals__['answer']",
        "given.__class__.__init__.__globals__['answer']",
        "given.method.__self__.__dict__",
        "show.__globals__['answer']",
        "show.__code__",
        "setattr(show, 'x', 3)",
        "made.gi_frame.f_globals['answer']",
        "made.gi_code",
    ):
        tests = Tests(setup, "assert f(Given(), show, made()) == 'refused'", ("f",))
        source = f"def f(given, show, made):\n    try: return {stolen}\n    except Exception: return 'refused'"
        assert sandbox.judge_python(source, tests).passed, stolen


@pytest.mark.parametrize(
    ("setup", "tests", "status"),
    [
        ("import not_installed_here", "assert f(1, 2) == 3", "invalid"),
        ("1 / 0", "assert f(1, 2) == 3", "invalid"),
        ("def", "assert f(1, 2) == 3", "invalid"),
        ("", "import not_installed_here\nassert f(1, 2) == 3", "invalid"),
        ("x = f(1)", "assert x", "failed"),
        ("x = g(1)", "assert x", "failed"),
        ("", "assert g(1, 2) == 3", "failed"),
    ],
)
def test_faults_of_the_task_are_told_from_faults_of_the_program(
    sandbox: Sandbox, setup: str, tests: str, status: str
) -> None:
    verdict = sandbox.judge_python("def f(a, b): return a + b", Tests(setup, tests, ("f", "g")))
    assert verdict.status == status, verdict
