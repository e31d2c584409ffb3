"""Java: which class of a file holds its `main`, and the tuple classes that MultiPL-E's programs import, as sources."""

import re
from functools import cache

NAMES = ("Unit", "Pair", "Triplet", "Quartet", "Quintet", "Sextet", "Septet", "Octet", "Ennead", "Decade")
PACKAGE = "org.javatuples"


@cache
def tuple_sources() -> dict[str, str]:
    """Source by file name, below the folder `tuples`: values in order, equality by value, `with` and setters."""
    folder = f"tuples/{PACKAGE.replace('.', '/')}"
    classes = {f"{folder}/{name}.java": _class(name, size) for size, name in enumerate(NAMES, 1)}
    return {f"{folder}/Tuple.java": _BASE, **classes}


def _class(name: str, size: int) -> str:
    letters = [chr(ord("A") + n) for n in range(size)]
    generic = f"<{', '.join(letters)}>"
    parameters = ", ".join(f"{letter} value{n}" for n, letter in enumerate(letters))
    values = ", ".join(f"value{n}" for n in range(size))
    lines = [
        f"package {PACKAGE};",
        f"public final class {name}{generic} extends Tuple {{",
        f"  public {name}({parameters}) {{ super({values}); }}",
        f"  public static {generic} {name}{generic} with({parameters}) {{ return new {name}{generic}({values}); }}",
    ]
    for n, letter in enumerate(letters):
        changed = ", ".join("value" if m == n else f"getValue{m}()" for m in range(size))
        others = ", ".join("X" if m == n else other for m, other in enumerate(letters))
        lines += [
            f'  @SuppressWarnings("unchecked") public {letter} getValue{n}() {{ return ({letter}) values[{n}]; }}',
            f"  public <X> {name}<{others}> setAt{n}(X value) {{ return new {name}<{others}>({changed}); }}",
        ]
    return "\n".join([*lines, "}", ""])


# comments, text blocks, strings and characters say nothing; the rest are the words and signs that make classes
_SILENT = r'//[^\n]*|/\*.*?\*/|"""(?:\\.|.)*?"""|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\''
_TOKEN = re.compile(
    rf"{_SILENT}|(?P<class>(?<![.\w])(?:class|interface|enum|record)\s+(?P<name>\w+))|(?P<open>{{)|(?P<close>}})"
    r"|(?P<main>\bstatic\b[\w\s]*\bvoid\s+main\s*\()",
    re.DOTALL,
)


def main_class(source: str) -> str | None:
    """The name by which `java` runs the last class of a file that has a `static void main`; None without one.

    A class within classes is named as the compiler names its file: Outer$Inner.
    """
    scopes: list[str | None] = []
    pending, found = None, None
    for token in _TOKEN.finditer(source):
        match token.lastgroup:
            case "name" | "class":
                pending = token["name"]
            case "open":
                scopes.append(pending)
                pending = None
            case "close" if scopes:
                scopes.pop()
            case "main" if scopes and None not in scopes:
                found = "$".join(str(scope) for scope in scopes)
    return found


_BASE = f"""package {PACKAGE};
import java.util.Arrays;
import java.util.Iterator;
import java.util.List;
public abstract class Tuple implements Iterable<Object>, Comparable<Tuple>, java.io.Serializable {{
  protected final Object[] values;
  protected Tuple(Object... values) {{ this.values = values; }}
  public int getSize() {{ return values.length; }}
  public Object getValue(int position) {{ return values[position]; }}
  public boolean contains(Object value) {{ return toList().contains(value); }}
  public int indexOf(Object value) {{ return toList().indexOf(value); }}
  public List<Object> toList() {{ return Arrays.asList(values); }}
  public Object[] toArray() {{ return values.clone(); }}
  public Iterator<Object> iterator() {{ return toList().iterator(); }}
  public String toString() {{ return toList().toString(); }}
  public int hashCode() {{ return toList().hashCode(); }}
  public boolean equals(Object other) {{
    return other != null && other.getClass() == getClass() && Arrays.equals(values, ((Tuple) other).values);
  }}
  @SuppressWarnings({{"unchecked", "rawtypes"}})
  public int compareTo(Tuple other) {{
    for (int n = 0; n < Math.min(values.length, other.values.length); n++) {{
      int order = ((Comparable) values[n]).compareTo(other.values[n]);
      if (order != 0) return order;
    }}
    return Integer.compare(values.length, other.values.length);
  }}
}}
"""
