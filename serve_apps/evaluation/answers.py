"""A chat model's answer as a completion of a task's prompt.

Such models answer with prose and a fenced block, with the whole function or with its body alone. A completion is what
follows the prompt; the same code must get the same verdict whichever way it was asked for.
"""

import re
import textwrap
from dataclasses import dataclass

from serve_apps.evaluation.benchmarks.benchmark import Task

INSTRUCTION = (
    "Complete the following {language} code. Answer with one fenced code block that holds the whole function,"
    " and with nothing else.\n\n```{language}\n{prompt}\n```"
)
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n`]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_MAIN = re.compile(r"^.*\b(?:int main|fn main|func main|static void main)\s*\(", re.MULTILINE)
_NAME = re.compile(r"(\w+)\s*(?:<[^<>]*>\s*)?\(|(?:^|\s)(\w+)\s*=|\bsub\s+(\w+)")


@dataclass(frozen=True)
class Answer:
    """`completion` follows the prompt; `before` stands before the prompt's last line: what the answer defines first."""

    completion: str
    before: str = ""


def messages(task: Task, system: str = "") -> list[dict[str, str]]:
    """The conversation that asks for a task."""
    asked = INSTRUCTION.format(language=task.language, prompt=task.prompt.rstrip())
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": asked}]


def looks_like_an_answer(task: Task, text: str) -> bool:
    """Whether a completion is an answer all the same: it repeats its prompt, or begins with a fence."""
    return text.startswith(task.prompt) or text.lstrip().startswith(("```", "~~~"))


def answered(task: Task, text: str) -> Answer:
    """The completion that an answer holds."""
    code, tests = _code(task, text), str(task.record.get("tests") or "")
    if code.startswith(task.prompt):
        return Answer(_without_end(code[len(task.prompt) :], tests))
    if task.language == "Python":
        return Answer(_python(task, code))
    signature = _last_line(task.prompt)
    found = _after_signature(signature, code)
    if found is None:
        return Answer(code)
    before, body = found
    known = {line.strip() for line in task.prompt.splitlines()}
    fresh = [line for line in before.splitlines() if line.strip() and line.strip() not in known]
    return Answer(_without_end(body, tests), "".join(f"{line}\n" for line in fresh))


def _code(task: Task, text: str) -> str:
    """The fenced block that holds the function, else the first one; without a fence, from the function on."""
    blocks = [block for _, block in _FENCE.findall(text)]
    name = _function(_last_line(task.prompt)) or str(task.record.get("entry_point") or "")
    for block in blocks:
        if name and re.search(rf"\b{re.escape(name)}\b", block):
            return str(block)
    if blocks:
        return str(blocks[0])
    if task.language == "Python":
        found = re.search(r"^(?:from\s+\w|import\s+\w|@\w|def\s+\w|async\s+def\s|class\s+\w)", text, re.MULTILINE)
        if found and not text[: found.start()].startswith((" ", "\t")):
            return text[found.start() :]
    return text


def _python(task: Task, code: str) -> str:
    if not task.prompt.rstrip().endswith(('"""', "'''", ":")) or not _definition(task.prompt):
        return code  # the prompt is no beginning of a function
    defined = re.findall(r"^(?:async\s+)?def\s+(\w+)|^(\w+)\s*=", code, re.MULTILINE)
    entry = str(task.record.get("entry_point") or _function(_definition(task.prompt)))
    if entry in {name for pair in defined for name in pair}:
        return f"    pass\n\n\n{code}"  # defined anew, after the prompt's
    lines = code.strip("\n").splitlines()
    if lines and not lines[0].startswith((" ", "\t")):
        if len(lines) > 1 and all(line.startswith((" ", "\t")) for line in lines[1:] if line.strip()):
            lines[0] = "    " + lines[0]  # the answer was stripped
        else:
            return textwrap.indent(code.strip("\n"), "    ") + "\n"
    return "\n".join(lines) + "\n"


def _definition(prompt: str) -> str:
    found = re.findall(r"^\s*(?:async\s+)?def\s.*$", prompt, re.MULTILINE)
    return found[-1] if found else ""


def _last_line(prompt: str) -> str:
    lines = [line for line in prompt.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _function(signature: str) -> str:
    found = _NAME.search(signature)
    return next((name for name in found.groups() if name), "") if found else ""


def _after_signature(signature: str, code: str) -> tuple[str, str] | None:
    """What stands before and behind the line that begins the function; None when it is not there."""
    wanted = "".join(signature.split())
    name = _function(signature)
    position = 0
    for line in code.splitlines(keepends=True):
        squeezed = "".join(line.split())
        begins = bool(name) and re.search(rf"\b{re.escape(name)}\s*(?:\(|=|\{{|$)", line) is not None
        if squeezed == wanted or (begins and squeezed.endswith("{") == wanted.endswith("{")):
            return code[:position], code[position + len(line) :]
        position += len(line)
    return None


def _without_end(body: str, tests: str) -> str:
    """A function's body without its own end, where the tests bring that, and without a main of its own."""
    if (own := _MAIN.search(body)) is not None and _MAIN.search(tests):
        body = body[: own.start()]
    end = re.match(r"[ \t]*}", tests)
    if end is None:
        return body
    head, found, _ = ("\n" + body).rpartition("\n" + end.group())
    return head.removeprefix("\n") + "\n" if found else body
