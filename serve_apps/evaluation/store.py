"""Evaluations on disk: what was asked, each sample and verdict as it comes, the result.

A run's folder is enough to go on after any crash: lines are appended, a torn last line is dropped, and a sample or
verdict that is there is not made again.
"""

import json
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from serve_apps.evaluation.sampling import Sample
from starloom import jsonlines
from starloom.config import Config, validate
from starloom.errors import NotFoundError, disk_error
from starloom.kinds import Evaluation

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
ENDED = (DONE, FAILED, CANCELLED)


class About(Config):
    """What the leaderboard shows of a model and no endpoint tells."""

    parameters: int | None = Field(None, ge=1)
    licence: str | None = None
    sequence_length: int | None = Field(None, ge=1)


class EvaluationRequest(Config):
    """``POST /v1/evaluations``. Left out, `n` and `max_tokens` are the benchmark's own; `url` is the served model."""

    benchmark: str
    model: str | None = None
    url: str | None = None
    data: str | None = None
    tasks: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1, le=1000)
    temperature: float = Field(0.2, ge=0, le=2)
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)
    cpu_seconds: float = Field(5.0, gt=0, le=600)
    wall_seconds: float = Field(60.0, gt=0, le=3600)
    chat: bool = False
    system: str = ""
    generations: str | None = None  # a file of saved completions, in the place of an endpoint
    throughput: bool = False
    corpus: str | None = None  # folder or URL of the corpus that the model was trained on
    about: About = About()


@dataclass(frozen=True)
class StoredRun:
    """One evaluation's folder."""

    folder: Path

    @property
    def id(self) -> str:
        """Its name in URLs."""
        return self.folder.name

    def request(self) -> EvaluationRequest:
        """What was asked."""
        return validate(EvaluationRequest, self._json("request.json") or {}, where=str(self.folder / "request.json"))

    def state(self) -> dict[str, Any]:
        """``{"state", "error", "total"}``."""
        return self._json("state.json") or {"state": QUEUED, "error": None, "total": None}

    def set_state(self, state: str, *, error: str | None = None, total: int | None = None) -> None:
        """Replace the state as a whole."""
        kept = total if total is not None else self.state().get("total")
        self.write("state.json", {"state": state, "error": error, "total": kept})

    def result(self) -> dict[str, Any] | None:
        """The summary, once it is done."""
        return self._json(Evaluation.RESULTS)

    def throughput(self) -> dict[str, float] | None:
        """Tokens per second at batch 1 and 50, where they were measured."""
        return self._json("throughput.json")

    def samples(self) -> list[Sample]:
        """Completions so far."""
        return [Sample(**row) for row in self._lines("samples.jsonl")]

    def verdicts(self) -> list[dict[str, Any]]:
        """Verdicts so far: ``{"task_id", "sample", "status", "detail", "passed"}``; the first of a sample counts."""
        found: dict[tuple[str, int], dict[str, Any]] = {}
        for row in self._lines("verdicts.jsonl"):
            found.setdefault((row["task_id"], row["sample"]), row)
        return list(found.values())

    def add_sample(self, sample: Sample) -> None:
        """Append a completion."""
        self._append("samples.jsonl", asdict(sample))

    def forget(self) -> None:
        """Remove the folder: what it has is kept elsewhere."""
        shutil.rmtree(self.folder)

    def add_verdict(self, row: dict[str, Any]) -> None:
        """Append a verdict."""
        self._append("verdicts.jsonl", row)

    def mend(self) -> None:
        """Cut a torn last line off, so that appending goes on on a line of its own."""
        for name in ("samples.jsonl", "verdicts.jsonl"):
            path = self.folder / name
            if path.exists() and not (data := path.read_bytes()).endswith(b"\n") and data:
                os.truncate(path, data.rfind(b"\n") + 1)

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file whole or not at all."""
        unfinished = self.folder / f".{name}.{threading.get_ident()}"
        try:
            with unfinished.open("w", encoding="utf-8") as file:
                file.write(json.dumps(value, indent=1, sort_keys=True) + "\n")
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self.folder / name)
        except OSError as error:
            raise disk_error(error, str(self.folder / name)) from None

    def _append(self, name: str, row: dict[str, Any]) -> None:
        try:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(jsonlines.dump(row))
        except OSError as error:
            raise disk_error(error, str(self.folder / name)) from None

    def _json(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return found

    def _lines(self, name: str) -> Iterator[dict[str, Any]]:
        yield from jsonlines.read_log(self.folder / name)


@dataclass(frozen=True)
class Store:
    """All evaluations below a root."""

    root: Path

    def create(self, request: EvaluationRequest) -> StoredRun:
        """A new run's folder."""
        run = StoredRun(self.root / f"eval-{secrets.token_hex(6)}")
        run.folder.mkdir(parents=True)
        run.write("request.json", request.model_dump(mode="json"))
        run.set_state(QUEUED)
        return run

    def runs(self) -> list[StoredRun]:
        """All runs, the oldest first."""
        folders = [path.parent for path in self.root.glob("eval-*/request.json")]
        return [StoredRun(folder) for folder in sorted(folders, key=lambda f: (f.stat().st_ctime_ns, f.name))]

    def run(self, name: str) -> StoredRun:
        """The run of that id.

        Raises:
            NotFoundError: there is none.
        """
        for known in self.runs():
            if known.id == name:
                return known
        raise NotFoundError(f"evaluation {name!r}: there is none of that id")
