"""Where conversations come from: JSON lines, and the commits of a curated corpus."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow.compute as pc

from starloom import jsonlines
from starloom.errors import UserError
from starloom.kinds import Corpus
from starloom.records import split_commit
from train_jobs.finetuning.config import every_file
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


@dataclass
class Tally:
    """How many conversations were kept, and why others were not."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def from_json_lines(patterns: Sequence[str], tally: Tally) -> Iterator[Dialogue]:
    """Conversations of files; a line that is none is counted, and a file without a single one is an error.

    Raises:
        UserError: a pattern names no file, or none of its lines is a conversation; says what is wrong with the first.
    """
    for path in every_file(patterns, setting="conversations"):
        first_complaint: UserError | None = None
        kept = tally.kept
        for number, line in jsonlines.read_lines(path):
            try:
                yield Dialogue.of(jsonlines.parse(line), f"{path}:{number}")
                tally.kept += 1
            except (ValueError, UserError) as error:
                told = error if isinstance(error, UserError) else UserError(f"{path}:{number}: {error}")
                first_complaint = first_complaint or told
                tally.dropped["no_conversation"] += 1
        if tally.kept == kept:
            raise first_complaint or UserError(f"conversations: {path} is empty")


def from_commits(corpus: Corpus, tally: Tally) -> Iterator[Dialogue]:
    """The commits of a corpus as instructions: the message and the code before it ask, the code after it answers."""
    for shard in corpus.shards():
        table = corpus.table(shard, ["kind", "content"])
        for content in table.filter(pc.equal(table["kind"], "commit"))["content"].to_pylist():
            dialogue = of_commit(content)
            if isinstance(dialogue, str):
                tally.dropped[dialogue] += 1
            else:
                tally.kept += 1
                yield dialogue


def of_commit(content: str) -> Dialogue | str:
    """The dialogue of a commit as `starloom.records` writes it, or the reason why it is none."""
    try:
        commit = split_commit(content)
    except ValueError:
        return "no_commit"
    message, before, after = commit.message.strip(), commit.before, commit.after
    words = message.split()
    if not 3 <= len(words) <= 60:
        return "message_length"
    if words[0].lower().rstrip("s") not in COMMIT_VERBS and words[0].lower() not in COMMIT_VERBS:
        return "message_is_no_request"
    if re.search(r"https?://|#\d+|\bsee\b", message):
        return "message_refers_elsewhere"
    if not after.strip() or before.strip() == after.strip():
        return "no_change"
    asked = f"{message}\n\n```\n{before}\n```" if before.strip() else message
    return Dialogue((Message("user", asked), Message("assistant", f"```\n{after}\n```")))
