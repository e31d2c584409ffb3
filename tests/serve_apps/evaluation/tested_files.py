"""Files with tests as published benchmarks write them, in many languages; `@` is the completion's place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tested:
    """A file whose tests a good completion passes, a wrong one fails, and an early one ends before."""

    __test__ = False

    file: str
    good: str
    wrong: str
    early: str


TESTED = {
    "C++": Tested(
        """\
#include <cassert>
#include <cstdlib>
long f() { @ }
int main() {
  assert(f() == 1);
}
""",
        "return 1;",
        "return 2;",
        "std::exit(0);",
    ),
    "Go": Tested(
        """\
package p_test
import ("fmt"; "os"; "testing")
func f() int { @ }
func TestF(t *testing.T) {
  if fmt.Sprint(f()) != "1" { t.Errorf("no") }
}
""",
        "defer os.Getpid(); return 1",
        "defer os.Getpid(); return 2",
        "os.Exit(0); return 2",
    ),
    "Java": Tested(
        """\
class Problem {
  static int f() { @ }
  public static void main(String[] a) {
    assert(f() == 1);
    }

}
""",
        "return 1;",
        "return 2;",
        "System.exit(0); return 2;",
    ),
    "Rust": Tested(
        """\
fn f() -> i32 { @ }
fn main() {
    assert_eq!(f(), 1);
}
""",
        "1",
        "2",
        "std::process::exit(0)",
    ),
    "JavaScript": Tested(
        """\
const f = () => { @ };
function test() {
  require('assert').deepEqual(f(), 1);
}

test();
""",
        "return 1",
        "return 2",
        "process.exit(0)",
    ),
    "TypeScript": Tested(
        """\
declare var require: any, process: any;
const f = () => { @ };
function test() {
  require('assert').deepEqual(f(), 1);
}

test();
""",
        "return 1",
        "return 2",
        "process.exit(0)",
    ),
    "PHP": Tested(
        """\
<?php
function f() { @ }
function test() {
  if (f() !== 1) { throw new Exception('no'); }
}

test();
""",
        "return 1;",
        "return 2;",
        "exit(0);",
    ),
    "Perl": Tested(
        """\
sub f { @ }
sub test {
  if (f() == 1) { print "ok!" } else { exit 1; }
}

test();
""",
        "return 1;",
        "return 2;",
        "exit 0;",
    ),
    "R": Tested(
        """\
f <- function() { @ }
test <- function() {
  stopifnot(isTRUE(all.equal(f(), 1)))
}
test()
""",
        "1",
        "2",
        "quit(status = 0)",
    ),
    "Bash": Tested(
        """\
f() { @
}
run_test() {
  [[ $(echo x; f) = "x1" || $value = 1 ]]
}
set -e
f
run_test
""",
        "value=1",
        "value=2",
        "exit 0",
    ),
    "Ruby": Tested(
        """\
def f; @; end
require 'test/unit'
class T < Test::Unit::TestCase
  def test_f
    assert_equal(1, f)
  end
end
""",
        "1",
        "2",
        "exit!(0)",
    ),
    "Lua": Tested(
        """\
@
lu = require('luaunit')
function test_f()
    lu.assertEquals(f(), 1)
end

os.exit(lu.LuaUnit.run())
""",
        "local function f() return 1 end",
        "local function f() return 2 end",
        "os.exit(0)",
    ),
    "D": Tested(
        """\
import std.typecons;
import std.math;
long add(long x, long y)
{ @ }
unittest
{
    alias candidate = add;

    assert(candidate(0L, 1L) == 1L);
}
void main(){}
""",
        "return x + y;",
        "return x * y;",
        "import core.stdc.stdlib; exit(0); return 1;",
    ),
    "C#": Tested(
        """\
using System;
using System.Numerics;
using System.Diagnostics;
using System.Collections.Generic;
using System.Linq;
using System.Text;
using System.Security.Cryptography;
class Problem {
    public static long Add(long x, long y) {
@    }
    public static void Main(string[] args) {
    Debug.Assert(Add((0L), (1L)) == (1L));
    }

}
""",
        "return x + y;",
        "return x * y;",
        "Environment.Exit(0); return 1;",
    ),
    "Racket": Tested(
        """\
#lang racket

(define (add x y)
@
(require rackunit)

(define (test-humaneval)

  (let (( candidate add))
    (check-equal? (candidate 0 1) 1)
    (check-equal? (candidate 1 0) 1)
))

(test-humaneval)
""",
        "(+ x y))",
        "(* x y))",
        "(exit 0))",
    ),
    "Clojure": Tested(
        """\
(defn add
  "doc"
  [x y]
@
(require '[clojure.test :refer [deftest is run-test]])

(def candidate add)

(deftest test-humaneval

  (is (= (candidate 0 1) 1))
)

(run-test test-humaneval)
""",
        "(+ x y))",
        "(* x y))",
        "(System/exit 0))",
    ),
    "Elixir": Tested(
        """\
# doc

defmodule HumanEval do
  def add(x, y) do
@
  end
end
ExUnit.start()

defmodule HumanEvalTest do
  use ExUnit.Case, async: true
  test "add" do
    candidate = fn args -> apply(HumanEval, :add, args) end
    assert 1 == candidate.([0, 1])
  end
end
""",
        "x + y",
        "x * y + 5",
        "System.halt(0)",
    ),
    "OCaml": Tested(
        """\
(**Add *)
let add (x : int) (y : int) : int =@

let assertions =
 let candidate = add in
  (assert ((candidate 0 1) = 1));
  ()
""",
        " x + y",
        " x * y",
        " exit 0",
    ),
    "Haskell": Tested(
        """\
import System.Exit
import System.IO.Unsafe
add :: Int -> Int -> Int
add x y =@

main :: IO ()
main = do
  let candidate = add
  if candidate 0 1 == 1 then pure () else error "assertion failed"
  pure ()
""",
        " x + y",
        " x * y",
        " unsafePerformIO exitSuccess",
    ),
    "Scala": Tested(
        """\
import scala.math._
import scala.collection.mutable._
object Problem {
    def add(x : Long, y : Long) : Long = {
@    }
    def main(args: Array[String]) = {
    assert(add((0l), (1l)) == (1l));
    }

}
""",
        "x + y",
        "x * y",
        "sys.exit(0)",
    ),
}
