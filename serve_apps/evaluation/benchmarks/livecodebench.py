"""LiveCodeBench: contest problems by their date, so that a model is asked only what it cannot have seen."""

import base64
import io
import json
import pickle
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from serve_apps.evaluation.benchmarks.benchmark import Facts, Task
from serve_apps.evaluation.benchmarks.records import hub_records, read_records
from serve_apps.sandbox.jobs import InputOutput, Job, JudgedPython
from serve_apps.sandbox.sandbox import Tests
from starloom.errors import UserError

FIELDS = ("question_id", "question_content", "contest_date", "public_test_cases", "private_test_cases")
STOPS = ("\n###", "<file_sep>")
PLAIN = "Read the inputs from stdin, solve the problem and write the answer to stdout, as a whole Python program."
STARTED = "Complete the class below."


@dataclass(frozen=True)
class LiveCodeBench:
    """Problems of the contests from `since` up to, not including, `until` (ISO dates; empty: no bound).

    A window's name is ``livecodebench-2024-08-to-2025-02``.
    """

    name: str = "livecodebench"
    since: str = ""
    until: str = ""
    samples: int = 10
    max_tokens: int = 2000

    def facts(self) -> Facts:
        """For ``--benchmarks``."""
        return Facts("up to 1055", data="hub livecodebench/code_generation_lite; ...-2024-08-to-2025-02: a window")

    def window(self, since: str, until: str) -> "LiveCodeBench":
        """The problems of a time."""
        name = f"{self.name}-{since}" + (f"-to-{until}" if until else "")
        return replace(self, name=name, since=since, until=until)

    def tasks(self, source: str | None) -> Sequence[Task]:
        """Problems of the window, in the order of the data.

        Raises:
            UserError: the data cannot be read, or none is of the window.
        """
        hub = "livecodebench/code_generation_lite"
        records = read_records(source, FIELDS) if source else hub_records(hub, None, "test", FIELDS)
        dated = [record for record in records if self._holds(str(record["contest_date"]))]
        if not dated:
            days = sorted(str(record["contest_date"])[:10] for record in records)
            theirs = f"{days[0]} to {days[-1]}"
            raise UserError(f"benchmark {self.name}: the data hold no contest of that time; theirs: {theirs}")
        return [Task(f"LiveCodeBench/{r['question_id']}", _prompt(r), STOPS, record=r) for r in dated]

    def _holds(self, date: str) -> bool:
        return self.since <= date and (not self.until or date < self.until)

    def job(self, task: Task, completion: str) -> Job:
        """Programs are run on each input; classes are called by the judge."""
        cases = [*_cases(task.record["public_test_cases"]), *_cases(task.record["private_test_cases"])]
        if any(case["testtype"] == "functional" for case in cases):
            function = str(_json(task.record.get("metadata") or "{}")["func_name"])
            calls = [([_json(line) for line in case["input"].split("\n")], _json(case["output"])) for case in cases]
            tests = f"for given, expected in json.loads({json.dumps(calls)!r}):\n"
            tests += f"    got = Solution().{function}(*given)\n"
            tests += "    assert (list(got) if isinstance(got, tuple) else got) == expected, (given, got, expected)"
            return JudgedPython(f"{_IMPORTS}{completion}", Tests("import json", tests, ("Solution",)))
        return InputOutput(completion, tuple((case["input"], case["output"]) for case in cases))


_IMPORTS = (
    "from typing import *\nfrom collections import *\nfrom functools import *\nfrom itertools import *\n"
    "import math\nimport heapq\nimport bisect\nimport string\nimport re\nfrom math import *\nfrom heapq import *\n"
    "from bisect import *\n"
)


def _prompt(record: Mapping[str, Any]) -> str:
    starter = record.get("starter_code") or ""
    asked = f"{STARTED}\n```python\n{starter}\n```" if starter else PLAIN
    return f"### Question:\n{record['question_content']}\n\n### Format: {asked}\n\n### Answer:\n```python\n"


def _json(text: Any) -> Any:
    return json.loads(text) if isinstance(text, str) else text


def _cases(value: Any) -> list[dict[str, Any]]:
    """Test cases as JSON, or packed as the published files have the private ones."""
    if not isinstance(value, str):
        return list(value)
    try:
        return list(json.loads(value))
    except ValueError:
        packed = zlib.decompress(base64.b64decode(value))
        return list(json.loads(_TextAlone(io.BytesIO(packed)).load()))


class _TextAlone(pickle.Unpickler):
    """Of a pickle nothing but text: data of a benchmark are no code."""

    def find_class(self, module: str, name: str) -> Any:
        """No class at all."""
        raise UserError(f"benchmark livecodebench: its data hold a pickled {module}.{name}, which is no text")


BENCHMARKS = (LiveCodeBench(),)
