"""An opt-out carried out: names on the list, hidden at once, the data made again, every old copy of the text removed.

The order lets it be killed at any moment: a journal is written first and removed last, and each part can be done again.
What must be read to tell what went (old corpus, old texts) is removed after it was told.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from starloom import storage
from starloom.artifact import Artifact, manifests, read_manifest
from starloom.attribution.answer import Index
from starloom.errors import StarloomError, UserError
from starloom.fetched import forget_copy
from starloom.governance import holdings
from starloom.governance.copies import copies_of, only_theirs
from starloom.governance.holdings import File, Holding
from starloom.governance.page import opt_out_page
from starloom.kinds import Attribution, Collected, Conversations, Corpus, Decisions, Model, Report, Tokenizer, Tokens
from starloom.opt_outs import FOLDER, JOURNAL, entry_for, names_in, withdraw
from starloom.recipe import CheckedStep, Recipe, StepEntry, check

MADE_AGAIN: Final = (
    Decisions.kind, Corpus.kind, Tokenizer.kind, Tokens.kind, Attribution.kind, Conversations.kind,
)  # fmt: skip
Run = Callable[[Recipe], object]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Wish:
    """Names that are to go; `began` is the time in UTC that its page is named by, `before` the corpus of then."""

    names: tuple[str, ...]
    why: str = ""
    began: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ"))
    before: str | None = None
    removing: tuple[str, ...] = ()  # folders of which nothing may stay, once their removal was begun

    @property
    def page(self) -> str:
        """Where it is told, below the root, without ``.json`` or ``.md``."""
        return f"{FOLDER}/{self.began}"


@dataclass(frozen=True)
class Survey:
    """What a run has of some names."""

    lists: tuple[str, ...]  # files of the recipe's opt-outs
    unknown: tuple[str, ...]  # names that no collected row falls under
    collected: int  # rows
    files: tuple[File, ...]  # of the newest corpus
    again: tuple[str, ...]  # steps that are made again
    holding: tuple[Holding, ...]
    models: tuple[str, ...]  # STEP/FINGERPRINT


def survey(recipe: Recipe, names: Sequence[str]) -> Survey:
    """What is there and what would be done; nothing is changed.

    Raises:
        UserError: the recipe has no list of opt-outs.
    """
    checked = check(recipe)
    seen, rows = dict.fromkeys(names, 0), 0
    for artifact in _newest(recipe, checked, Collected.kind):
        for one in holdings.names_of(artifact, frozenset(names)):
            rows += 1
            for name in names:
                seen[name] += entry_for(one.repository, (name,)) is not None
    corpora = _newest(recipe, checked, Corpus.kind)
    held = holdings.holding(recipe.root, frozenset(names), {one.entry.name: one.step.produces for one in checked})
    guilty = {read_manifest(one.folder).fingerprint for one in held if one.kind == Corpus.kind and not one.unfinished}
    return Survey(
        lists=lists_of(checked, recipe),
        unknown=tuple(name for name, count in seen.items() if not count),
        collected=rows,
        files=tuple(sorted(one for artifact in corpora for one in holdings.names_of(artifact, frozenset(names)))),
        again=tuple(entry.name for entry in _made_again(recipe, checked)),
        holding=tuple(held),
        models=tuple(_below(recipe.root, folder) for folder, _ in holdings.made_from(recipe.root, Model.kind, guilty)),
    )


def lists_of(checked: Sequence[CheckedStep], recipe: Recipe) -> tuple[str, ...]:
    """The files of opt-outs that the recipe's steps read.

    Raises:
        UserError: no step reads one.
    """
    found = dict.fromkeys(getattr(one.config, "opt_out", None) for one in checked)
    named = tuple(str(name) for name in found if name)
    if not named:
        raise UserError(
            f"recipe {recipe.name}: no step reads a list of opt-outs; give its data_jobs.policy step opt_out = 'FILE'"
        )
    return named


def carry_out(recipe: Recipe, wish: Wish, *, run: Run, say: Say) -> str:
    """Do it, or go on with it; returns where it is told, without ``.json`` or ``.md``.

    `run` brings a recipe's steps up to date.

    Raises:
        UserError: the recipe has no list, or the list cannot be written.
        StarloomError: the data could not be made again. The old text is gone all the same.
    """
    checked, root = check(recipe), recipe.root
    for folder in wish.removing:  # half of one may be gone: nobody can read it any more
        storage.remove_below(folder)
    corpora = _newest(recipe, checked, Corpus.kind)
    lists = lists_of(checked, recipe)
    if wish.before is None and corpora:
        wish = replace(wish, before=corpora[-1].folder)
    for name in lists:
        _read_list(name)
    _write_json(storage.join(root, JOURNAL), asdict(wish))
    withdraw(root, wish.names)
    for name in lists:
        _append(name, wish)
    say(f"{', '.join(wish.names)}: on the list, and hidden by every service of {root}")
    failure = None
    where = storage.join(root, wish.page)
    if not storage.exists(f"{where}.json"):  # from there on old artifacts go, collected rows are written again
        try:
            again = _pinned(recipe, checked)
            if again is not None:
                run(again)
        except StarloomError as error:
            failure = error
        _tell(recipe, checked, wish, failure, say)
    _remove(recipe, checked, wish, say)
    storage.remove_file(storage.join(root, JOURNAL))
    if failure is not None:
        raise failure
    return where


def pending(root: str) -> Wish | None:
    """The wish that was begun and not brought to its end."""
    location = storage.join(root, JOURNAL)
    if not storage.exists(location):
        return None
    values = json.loads(storage.read_bytes(location))
    return Wish(**{**values, "names": tuple(values["names"]), "removing": tuple(values["removing"])})


def go_on(recipe: Recipe, *, run: Run, say: Say) -> None:
    """Bring an opt-out to its end that was begun below the recipe's root, if there is one."""
    wish = pending(recipe.root)
    if wish is not None:
        say(f"the opt-out of {', '.join(wish.names)} was not brought to its end; going on with it")
        carry_out(recipe, wish, run=run, say=say)


def _tell(recipe: Recipe, checked: Sequence[CheckedStep], wish: Wish, failure: StarloomError | None, say: Say) -> None:
    """Write the page and, last, its JSON."""
    where = storage.join(recipe.root, wish.page)
    told = _facts(recipe, checked, wish)
    told["failure"] = str(failure) if failure else None
    with storage.atomic_write(f"{where}.md") as file:
        file.write(opt_out_page(told).encode())
    _write_json(f"{where}.json", told)
    say(f"told in {where}.md")


def _facts(recipe: Recipe, checked: Sequence[CheckedStep], wish: Wish) -> dict[str, Any]:
    names, root = frozenset(wish.names), recipe.root
    now = survey(recipe, wish.names)
    old = Artifact(wish.before, read_manifest(wish.before)) if wish.before and storage.exists(wish.before) else None
    gone = dict(holdings.files_of(old, names)) if old else {}
    new = next(
        (one for one in reversed(_newest(recipe, checked, Corpus.kind)) if old and one.folder != old.folder), None
    )
    guilty = {old.fingerprint} if old else set()
    came_back: list[File] = []
    if old and new:
        before = set(holdings.names_of(old))
        came_back = sorted(one for one in holdings.names_of(new) if one not in before)
    index = _index_of(recipe, checked, new)
    return {
        "recipe": recipe.name,
        "names": list(wish.names),
        "why": wish.why,
        "began": wish.began,
        "unknown": list(now.unknown),
        "collected_rows": now.collected,
        "removed": [asdict(one) for one in sorted(gone)],
        "came_back": [asdict(one) for one in came_back],
        "copies": copies_of(gone, index) if index else None,
        "corpus": {"before": old.fingerprint if old else None, "after": new.fingerprint if new else None},
        "artifacts_removed": [{"artifact": _below(root, one.folder), "kind": one.kind} for one in now.holding],
        "models": list(now.models),
        "tokenizers": [_below(root, folder) for folder, _ in holdings.made_from(root, Tokenizer.kind, guilty)],
    }


def _index_of(recipe: Recipe, checked: Sequence[CheckedStep], corpus: Artifact | None) -> Index | None:
    views = [Attribution(artifact) for artifact in _newest(recipe, checked, Attribution.kind)]
    return next((Index.open(view) for view in views if corpus and view.corpus == corpus.fingerprint), None)


def _remove(recipe: Recipe, checked: Sequence[CheckedStep], wish: Wish, say: Say) -> None:
    """Every old copy of the text: what quotes it, what holds it, and last of all the collected rows."""
    root, names = recipe.root, frozenset(wish.names)
    kinds = {one.entry.name: one.step.produces for one in checked}
    texts = [text for one in _newest(recipe, checked, Collected.kind) for _, text in holdings.files_of(one, names)]
    if wish.before and storage.exists(wish.before):
        texts += [text for _, text in holdings.files_of(Artifact(wish.before, read_manifest(wish.before)), names)]
    lines = holdings.telling_lines(texts)
    corpora = _newest(recipe, checked, Corpus.kind)
    index = _index_of(recipe, checked, corpora[-1] if corpora else None)
    if index is not None:
        lines = only_theirs(lines, index)
    page = storage.join(root, Report.PAGE)
    if storage.exists(page) and holdings.quotes(storage.read_bytes(page), Report.PAGE, lines):
        storage.remove_file(page)
    going = (*holdings.quoting(root, lines), *holdings.holding(root, names, kinds))
    folders = dict.fromkeys((*wish.removing, *(one.folder for one in going)))
    _write_json(storage.join(root, JOURNAL), asdict(replace(wish, removing=tuple(folders))))
    for one in going:
        _forget(one.folder)
        storage.remove_below(one.folder)
        say(f"removed {_below(root, one.folder)} ({one.kind})")
    for step in (name for name, kind in kinds.items() if kind == Collected.kind):
        rows = holdings.blank(root, step, names)
        if rows:
            say(f"{step}: the text of {rows:,} rows is gone")


def _forget(folder: str) -> None:
    """What this machine has fetched of an artifact on an object store."""
    if storage.is_remote(folder):
        names = [name for name, _ in storage.files_below(folder)]
        inside = {name.rsplit("/", depth)[0] for name in names for depth in range(1, 1 + name.count("/"))}
        for name in ("", *names, *inside):
            forget_copy(storage.join(folder, name) if name else folder)


def _made_again(recipe: Recipe, checked: Sequence[CheckedStep]) -> list[StepEntry]:
    """The steps from policy to index that were finished once, with what they collected pinned as it is."""
    kept: list[StepEntry] = []
    pins: dict[str, str] = {}
    for one in checked:
        done = manifests(recipe.root, one.entry.name)
        if one.step.produces == Collected.kind and done:
            pins[one.entry.name] = f"{one.entry.name}/{done[-1].rsplit('/', 1)[-1]}"
            continue
        earlier = {entry.name for entry in kept}
        within = all("/" in need or need in earlier or need in pins for need in one.entry.needs)
        if one.step.produces in MADE_AGAIN and done and within:
            needs = tuple(pins.get(need, need) for need in one.entry.needs)
            kept.append(one.entry.model_copy(update={"needs": needs}))
    return kept


def _pinned(recipe: Recipe, checked: Sequence[CheckedStep]) -> Recipe | None:
    steps = tuple(_made_again(recipe, checked))
    return recipe.model_copy(update={"steps": steps}) if steps else None


def _newest(recipe: Recipe, checked: Sequence[CheckedStep], kind: str) -> list[Artifact]:
    """The newest finished artifact of each of the recipe's steps that makes this kind."""
    found = []
    for one in checked:
        done = manifests(recipe.root, one.entry.name) if one.step.produces == kind else []
        if done:
            found.append(Artifact(done[-1], read_manifest(done[-1])))
    return found


def _read_list(name: str) -> bytes:
    try:
        data = Path(name).read_bytes() if Path(name).exists() else b""
        names_in(data.decode("utf-8-sig"), where=name)
    except OSError as error:
        raise UserError(f"opt_out = {name!r}: cannot be read ({error.strerror}); give a text file") from None
    except UnicodeDecodeError:
        raise UserError(f"opt_out = {name!r}: is not UTF-8; save it as such, entries are added to it") from None
    return data


def _append(name: str, wish: Wish) -> None:
    data = _read_list(name)
    known = names_in(data.decode("utf-8-sig"), where=name)
    why = " ".join(wish.why.split())
    note = f"  # {wish.began[:10]}{f' {why}' if why else ''}"
    lines = "".join(f"{one}{note}\n" for one in wish.names if one not in known)
    if lines:
        gap = b"" if not data or data.endswith(b"\n") else b"\n"
        with storage.atomic_write(name) as file:
            file.write(data + gap + lines.encode())


def _write_json(location: str, value: Any) -> None:
    with storage.atomic_write(location) as file:
        file.write((json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def _below(root: str, folder: str) -> str:
    return folder.removeprefix(storage.normalize(root) + "/")
