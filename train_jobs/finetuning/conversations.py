"""Where conversations come from: JSON lines, and the commits of a curated corpus."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as parquet

from starloom.artifact import Artifact
from starloom.errors import UserError
from train_jobs.finetune import matching_files
from train_jobs.finetuning.template import Dialogue, Message

# how OctoCoder's authors chose commits (Muennighoff et al. 2023): messages that ask for something, in words
COMMIT_VERBS = (
    "add", "adjust", "allow", "avoid", "change", "check", "clean", "convert", "correct", "create", "define", "document",
    "drop", "enable", "ensure", "extend", "extract", "fix", "format", "handle", "implement", "improve", "increase",
    "insert", "introduce", "let", "make", "merge", "move", "optimize", "pass", "prevent", "provide", "reduce",
    "refactor", "remove", "rename", "reorder", "replace", "return", "rewrite", "set", "show", "simplify",
    "sort", "speed", "split", "store", "support", "switch", "test", "turn", "update", "use", "validate", "wrap",
    "write",
)  # fmt: skip
COMMIT = re.compile(r"<commit_before>(?P<before>.*?)<commit_msg>(?P<message>.*?)<commit_after>(?P<after>.*)", re.DOTALL)


@dataclass
class Tally:
    """How many conversations were kept, and why others were not."""

    kept: int = 0
    dropped: dict[str, int] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.dropped = {}

    def drop(self, reason: str) -> None:
        """Count one that is not kept."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


def from_json_lines(patterns: Sequence[str], tally: Tally) -> Iterator[Dialogue]:
    """Conversations of files; a line that is none is counted, and a file without a single one is an error.

    Raises:
        UserError: a pattern names no file, or none of its lines is a conversation; says what is wrong with the first.
    """
    for path in matching_files(patterns):
        first_complaint: UserError | None = None
        kept = tally.kept
        with Path(path).open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    yield Dialogue.of(_parsed(line, where), where)
                    tally.kept += 1
                except UserError as error:
                    first_complaint = first_complaint or error
                    tally.drop("no_conversation")
        if tally.kept == kept:
            raise first_complaint or UserError(f"conversations: {path} is empty")


def from_commits(corpus: Artifact, tally: Tally) -> Iterator[Dialogue]:
    """The commits of a corpus as instructions: the message and the code before it ask, the code after it answers."""
    for name in corpus.files("data/"):
        table = parquet.read_table(corpus.local(name), columns=["kind", "content"])
        for kind, content in zip(table["kind"].to_pylist(), table["content"].to_pylist(), strict=True):
            if kind != "commit":
                continue
            dialogue = _commit(content)
            if isinstance(dialogue, str):
                tally.drop(dialogue)
            else:
                tally.kept += 1
                yield dialogue


def _commit(content: str) -> Dialogue | str:
    """The dialogue, or the reason why it is none."""
    found = COMMIT.search(content)
    if found is None:
        return "no_commit"
    message = found["message"].strip()
    words = message.split()
    if not 3 <= len(words) <= 60:
        return "message_length"
    if words[0].lower().rstrip("s") not in COMMIT_VERBS and words[0].lower() not in COMMIT_VERBS:
        return "message_is_no_request"
    if re.search(r"https?://|#\d+|\bsee\b", message):
        return "message_refers_elsewhere"
    before, after = found["before"], found["after"]
    if not after.strip() or before.strip() == after.strip():
        return "no_change"
    asked = f"{message}\n\n```\n{before}\n```" if before.strip() else message
    return Dialogue((Message("user", asked), Message("assistant", f"```\n{after}\n```")))


def _parsed(line: str, where: str) -> object:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: is no JSON: {error}") from None
