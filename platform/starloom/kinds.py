"""What each kind of artifact holds: its files and the details of its manifest, by name, for writers and readers alike.

A step names what it needs by kind and looks at it through one of these views; it writes under the names given here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import pyarrow as pa

from starloom.artifact import Artifact
from starloom.errors import UserError
from starloom.records import kind_of
from starloom.segmentfiles import SegmentInfo
from starloom.tokenizer import TOKENIZER_FILE, TOKENIZER_SETTINGS

Split = Literal["train", "heldout"]
SPLITS: Final[tuple[Split, Split]] = ("train", "heldout")
DROPPED_FILE: Final = "dropped.parquet"  # of `collected` and of `corpus`: schema.DROPPED


def data_file(shard: str) -> str:
    """Where a shard of rows is (schema.CORPUS)."""
    return f"data/{shard}"


def decisions_file(shard: str) -> str:
    """Where the decisions about a collected shard are (schema.DECISIONS)."""
    return f"decisions/{shard}"


def edits_file(shard: str) -> str:
    """Where the edits of a collected shard are (schema.EDITS)."""
    return f"edits/{shard}"


def shard_names(artifact: Artifact) -> list[str]:
    """The names of an artifact's data shards, in order."""
    return [name.removeprefix(data_file("")) for name in artifact.files(data_file(""))]


@dataclass(frozen=True)
class View:
    """An artifact of one kind.

    Raises:
        UserError: the artifact is of another kind.
    """

    artifact: Artifact
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        if self.artifact.kind != self.kind:
            raise UserError(f"{self.artifact.folder}: holds {self.artifact.kind}, not {self.kind}; name another one")


@dataclass(frozen=True)
class Rows(View):
    """Text in shards."""

    def shards(self) -> list[str]:
        """Names of the shards, in order; the same name is the same rows in every artifact."""
        return shard_names(self.artifact)

    def table(self, shard: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A shard's rows (schema.CORPUS), or some of the columns."""
        return self.artifact.read_table(data_file(shard), columns)

    def dropped(self, columns: Sequence[str] | None = None) -> pa.Table:
        """What is not in it (schema.DROPPED)."""
        return self.artifact.read_table(DROPPED_FILE, columns)


class Collected(Rows):
    """Sources as rows."""

    kind = "collected"
    LICENSES: ClassVar = "licenses.parquet"  # schema.LICENSES


class Decisions(View):
    """What a step decided about collected rows."""

    kind = "decisions"
    CLUSTERS: ClassVar = "clusters.parquet"  # schema.CLUSTERS, of deduplication
    DUPLICATES: ClassVar = "duplicates.json"
    EDITS: ClassVar = "edits"  # details: replacements by kind of personal data
    BENCHMARKS: ClassVar = "benchmarks"  # details: names of the benchmarks that the rows were held against

    def edit_counts(self) -> Mapping[str, int]:
        """Replacements by kind of personal data."""
        found: Mapping[str, int] = self.artifact.manifest.details.get(self.EDITS, {})
        return found

    def clusters(self, columns: Sequence[str] | None = None) -> pa.Table | None:
        """Duplicates (schema.CLUSTERS); None when this step looked for none."""
        return self.artifact.read_table(self.CLUSTERS, columns) if self.artifact.has(self.CLUSTERS) else None

    def benchmarks(self) -> tuple[str, ...]:
        """Benchmarks that the rows were held against."""
        manifest = self.artifact.manifest
        if self.BENCHMARKS in manifest.details:
            return tuple(manifest.details[self.BENCHMARKS])
        # artifacts of before 0.2 tell it by their config alone; another step's config has keys of its own
        ours = manifest.provenance["step"] == "DecontaminateConfig"
        return tuple(entry["name"] for entry in manifest.config["benchmarks"]) if ours else ()


@dataclass
class Stage:
    """One line of a corpus's funnel: files and bytes of text before and after a stage, and files dropped by reason."""

    stage: str
    files_in: int = 0
    files_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


class Corpus(Rows):
    """The curated rows."""

    kind = "corpus"
    FUNNEL: ClassVar = "funnel.json"
    LANGUAGES: ClassVar = "languages.json"
    CARD: ClassVar = "card.md"
    FACTS: ClassVar = "facts.json"

    @staticmethod
    def facts(
        sizes: Mapping[str, Mapping[str, tuple[int, int]]], edits: Mapping[str, int], dropped: Mapping[str, list[str]]
    ) -> dict[str, Any]:
        """What ``facts.json`` holds: (files, bytes) by facet and value, edits by kind, some files dropped by reason."""
        named = {facet: {name: list(pair) for name, pair in found.items()} for facet, found in sizes.items()}
        return {"sizes": named, "edits": dict(edits), "dropped": dict(dropped)}

    def told(self) -> dict[str, Any] | None:
        """``facts.json``; None for a corpus of before there was one."""
        found: dict[str, Any] | None = self.artifact.read_json(self.FACTS) if self.artifact.has(self.FACTS) else None
        return found

    def funnel(self) -> list[Stage]:
        """The stages in their order, collecting first."""
        return [Stage(**entry) for entry in self.artifact.read_json(self.FUNNEL)]

    def languages(self) -> dict[str, dict[str, int]]:
        """``{"files", "bytes"}`` by language; "" has what has no language."""
        found: dict[str, dict[str, int]] = self.artifact.read_json(self.LANGUAGES)
        return found

    def benchmarks(self) -> tuple[str, ...]:
        """Benchmarks that its rows were held against, by name."""
        details = self.artifact.manifest.details
        if Decisions.BENCHMARKS in details:
            return tuple(details[Decisions.BENCHMARKS])
        # artifacts of before 0.2: ask their inputs
        inputs = (self.artifact.place_of(e) for e in self.artifact.manifest.inputs if e.kind == Decisions.kind)
        found = (Decisions(Artifact.open(place)).benchmarks() for place in inputs if place is not None)
        return tuple(name for names in found for name in names)


class Tokenizer(View):
    """A trained tokenizer."""

    kind = "tokenizer"
    FILE: ClassVar = TOKENIZER_FILE
    SETTINGS: ClassVar = TOKENIZER_SETTINGS

    def path(self) -> Path:
        """The ``tokenizer.json`` on this machine, with what belongs to it beside it."""
        return self.artifact.local() / self.FILE


@dataclass(frozen=True)
class PackedShard:
    """Counts of one token shard."""

    documents: int
    tokens: int
    languages: dict[str, int]  # tokens


@dataclass(frozen=True)
class HeldoutDocument:
    """A row that no training sees."""

    repo_name: str
    path: str
    language: str | None
    content: str  # as in the corpus; records with parts are to be rendered by `starloom.records`
    kind: str = "file"


class Tokens(View):
    """Packed token shards."""

    kind = "tokens"
    HELDOUT: ClassVar = "heldout/documents.parquet"

    @staticmethod
    def details(
        *, tokenizer: str, vocabulary: int, dtype: str, route: str, shards: Mapping[str, PackedShard], heldout: int
    ) -> dict[str, Any]:
        """The manifest's details, for the step that packs."""
        return {
            "tokenizer": tokenizer,
            "vocabulary": vocabulary,
            "dtype": dtype,
            "route": route,
            "shards": {name: vars(counts) for name, counts in shards.items()},
            "heldout_files": heldout,
        }

    @property
    def tokenizer(self) -> str:
        """Fingerprint of the tokenizer that made them."""
        return str(self.artifact.manifest.details["tokenizer"])

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return int(self.artifact.manifest.details["vocabulary"])

    @property
    def dtype(self) -> str:
        """Type of the ids on disk."""
        return str(self.artifact.manifest.details["dtype"])

    def shards(self) -> dict[str, PackedShard]:
        """Counts by the shard's name, which is ``SPLIT/[GROUP/]STEM``."""
        return {name: PackedShard(**counts) for name, counts in self.artifact.manifest.details["shards"].items()}

    def stems(self, split: Split) -> tuple[str, ...]:
        """Local paths (without ``.bin``) of a split's shards that have tokens, in order of name."""
        root = self.artifact.local()
        return tuple(
            str(root / name)
            for name, counts in sorted(self.shards().items())
            if name.startswith(f"{split}/") and counts.tokens
        )

    def heldout_documents(self) -> list[HeldoutDocument]:
        """The held-out rows.

        Raises:
            UserError: the tokens were packed before held-out rows were kept.
        """
        if not self.artifact.has(self.HELDOUT):
            raise UserError(f"{self.artifact.folder}: has no {self.HELDOUT}; run the packing step again")
        rows = self.artifact.read_table(self.HELDOUT).to_pylist()
        return [
            HeldoutDocument(
                repo_name=row["repo_name"],
                path=row["path"],
                language=row["language"],
                content=row["content"],
                # tables of before 0.2 do not tell the kind, the text does
                kind=row.get("kind") or kind_of(row["content"]),
            )
            for row in rows
        ]


class Model(View):
    """A trained model with its checkpoints."""

    kind = "model"
    FOLDER: ClassVar = "model"  # as transformers loads it
    CHECKPOINTS: ClassVar = "checkpoints"
    METRICS: ClassVar = "metrics.jsonl"

    @property
    def shape(self) -> Mapping[str, Any]:
        """The fields of `ModelConfig`."""
        found: Mapping[str, Any] = self.artifact.manifest.details["shape"]
        return found

    @property
    def parameters(self) -> int | None:
        """How many; None where the step that made it did not say."""
        return self.artifact.manifest.details.get("parameters")

    @property
    def initial(self) -> str | None:
        """The path or URL of the model folder that training began from; None where it began from nothing."""
        named = self.artifact.manifest.details.get("initial")
        return str(named) if named else None

    @property
    def location(self) -> str:
        """The path or URL of the model folder, which every node of a cluster may fetch from."""
        return self.artifact.path(self.FOLDER)

    def folder(self) -> Path:
        """The model folder on this machine, or that of an adapter."""
        return self.artifact.local(self.FOLDER)

    def checkpoints(self) -> Path:
        """The folder of checkpoints on this machine."""
        return self.artifact.local(self.CHECKPOINTS)


class Attribution(View):
    """An index of a corpus: which file holds this piece of code."""

    kind = "attribution"
    SEGMENTS: ClassVar = "segments"
    REPOSITORIES: ClassVar = "repositories.parquet"
    REPOSITORIES_SCHEMA: ClassVar = pa.schema(
        [
            pa.field("owner", pa.string()),
            pa.field("repo_name", pa.string()),
            pa.field("files", pa.int64()),
            pa.field("bytes", pa.int64()),
            pa.field("licenses", pa.list_(pa.string())),
            pa.field("languages", pa.list_(pa.string())),
            pa.field("kinds", pa.list_(pa.string())),
        ]
    )

    @staticmethod
    def segment(number: int) -> str:
        """The folder of a segment."""
        return f"{Attribution.SEGMENTS}/seg-{number:05d}"

    @staticmethod
    def details(*, corpus: str, segments: Mapping[str, Mapping[str, Any]], index_bytes: int) -> dict[str, Any]:
        """What the manifest tells: the corpus's fingerprint, each segment's ``segment.json``, bytes without text."""
        return {"corpus": corpus, "segments": dict(segments), "index_bytes": index_bytes}

    @property
    def corpus(self) -> str:
        """The fingerprint of the corpus that was indexed."""
        return str(self.artifact.manifest.details["corpus"])

    def segments(self) -> dict[str, SegmentInfo]:
        """``segment.json`` of each segment, by its folder, in order."""
        found = self.artifact.manifest.details["segments"]
        return {name: SegmentInfo(**found[name]) for name in sorted(found)}

    def folders(self, first: int = 0, stop: int | None = None) -> list[Path]:
        """The folders on this machine of segments `first` up to `stop`, in order."""
        return [self.artifact.local(name) for name in list(self.segments())[first:stop]]

    def repositories(self) -> pa.Table:
        """What the corpus has of each repository, sorted by lower case of the name."""
        return self.artifact.read_table(self.REPOSITORIES)


class Conversations(View):
    """Dialogues to fine-tune on."""

    kind = "conversations"
    FILE: ClassVar = "conversations.jsonl"


class Evaluation(View):
    """Scores of a model."""

    kind = "evaluation"
    RESULTS: ClassVar = "results.json"

    def results(self) -> dict[str, Any]:
        """By measure: benchmarks by name, ``heldout``, ``completions``."""
        found: dict[str, Any] = self.artifact.read_json(self.RESULTS)
        return found


class Memorization(View):
    """How much a model writes that stands in its corpus."""

    kind = "memorization"
    RESULTS: ClassVar = "results.json"

    def results(self) -> dict[str, Any]:
        """``figures`` by prompts and writer, by ``languages``, and the ``worst`` with their files."""
        found: dict[str, Any] = self.artifact.read_json(self.RESULTS)
        return found


def corpora_of(artifact: Artifact) -> set[str]:
    """The fingerprints of the corpora that an artifact was made from, over all steps whose traces are left."""
    return set(_corpora(artifact))


def _corpora(artifact: Artifact) -> dict[str, str | None]:
    """Those corpora, and where each is; None where it is gone."""
    found: dict[str, str | None] = {}
    for entry in artifact.manifest.inputs:
        place = artifact.place_of(entry)
        if entry.kind == Corpus.kind:
            found[entry.fingerprint] = place
        elif place is not None:
            found |= _corpora(Artifact.open(place))
    return found


def _rows_of(corpora: Mapping[str, str | None]) -> list[dict[str, str]]:
    """The checksums of the rows of each corpus that is there."""
    opened = [Artifact.open(place) for place in corpora.values() if place is not None]
    return [{name: one.manifest.files[name].sha256 for name in one.files(data_file(""))} for one in opened]


def check_index(view: Attribution, made: Artifact) -> None:
    """`UserError` where an index is of another corpus than what an artifact was made from, as far as that is known.

    One with the same rows is the same: neither step looks at more of it.
    """
    corpora = _corpora(made)
    if corpora and view.corpus not in corpora:
        known = _rows_of(corpora)
        if any(rows and rows in known for rows in _rows_of(_corpora(view.artifact))):
            return
        raise UserError(
            f"{view.artifact.folder}: indexes the corpus {view.corpus}, {made.folder} was made from "
            f"{', '.join(sorted(corpora))}; run the index step again"
        )


class Cards(View):
    """What a model and its data are, for whoever gets them."""

    kind = "cards"
    MODEL: ClassVar = "model/README.md"
    DATA: ClassVar = "data/README.md"
    LICENSE: ClassVar = "model/LICENSE"

    @staticmethod
    def details(missing: Mapping[str, Mapping[str, Any]], derived: bool) -> dict[str, Any]:
        """The manifest's details: what each card could not tell, by section, and whether there is a base model."""
        return {"missing": {name: dict(found) for name, found in missing.items()}, "derived": derived}

    @property
    def missing(self) -> dict[str, dict[str, list[str]]]:
        """What each card could not tell, by section."""
        found: dict[str, dict[str, list[str]]] = self.artifact.manifest.details["missing"]
        return found

    @property
    def derived(self) -> bool:
        """Whether the model was made from another."""
        return bool(self.artifact.manifest.details["derived"])

    def text(self, name: str) -> str:
        """One of the files; empty where there is none."""
        return self.artifact.read_text(name) if self.artifact.has(name) else ""


class Report(View):
    """The page of a run."""

    kind = "report"
    PAGE: ClassVar = "report.html"
