"""The data card: the sections of the hub's template, filled from artifacts and from what the publisher states."""

import json

from starloom.artifact import Artifact
from starloom.governance.card import Card, Section
from starloom.governance.facts import Facts, size_category
from starloom.governance.publisher import NOT_STATED
from starloom.kinds import Corpus
from starloom.markdown import table
from starloom.schema import CORPUS


def data_card(facts: Facts) -> Card:
    """The card of the corpus among the facts."""
    publisher, corpus = facts.publisher, facts.corpus
    assert corpus is not None
    rows = corpus.artifact.manifest.counts.rows_out
    front = {
        "license": "other",
        "license_name": "the licences of the files",
        "size_categories": [size_category(rows)],
        "task_categories": ["text-generation"],
        "source_datasets": ["original"],
        "tags": ["code", "starloom"],
    }
    return Card(
        publisher.data_name,
        front,
        [
            Section("Description").add(f"{rows:,} files of source code, curated by {publisher.name}."),
            _structure(),
            _rationale(corpus),
            _numbers(corpus),
            _personal(facts),
            _opt_out(facts),
            _decontamination(corpus),
            _biases(corpus),
            _terms(facts),
            Section("Contact").add(f"{publisher.name}: {publisher.contact}"),
            Section("Citation").stated(publisher.citation, "citation"),
        ],
    )


def _structure() -> Section:
    rows = [(field.name, str(field.type), "yes" if field.nullable else "no") for field in CORPUS]
    return Section("Structure").add(table(("column", "type", "may be empty"), rows))


def _rationale(corpus: Corpus) -> Section:
    section = Section("Curation rationale").add(
        "What each step was told to do; `dropped.parquet` names every file that a step left out, with its reason."
    )
    for entry in corpus.artifact.manifest.inputs:
        place = corpus.artifact.place_of(entry)
        if place is not None:
            config = Artifact.open(place).manifest.config
            section.add(f"**{entry.step}**", f"```json\n{json.dumps(config, indent=1, sort_keys=True)}\n```")
        else:
            section.lacks(entry.step, f"**{entry.step}**: its artifact is gone.")
    return section


def _numbers(corpus: Corpus) -> Section:
    """Funnel, reasons, sources, languages, licences, duplicates: the page that curation wrote, one level down."""
    text = corpus.artifact.read_text(Corpus.CARD)
    lines = [f"#{line}" if line.startswith("#") else line for line in text.splitlines()[1:]]
    return Section("Processing, sources, languages, licences, duplicates").add("\n".join(lines).strip())


def _personal(facts: Facts) -> Section:
    section = Section("Personal and sensitive information")
    made = [one for one in facts.decisions if one.edit_counts()]
    if not made:
        return section.add("Nothing was looked for and nothing replaced (a step that runs data_jobs.redact).")
    rows = [(kind, f"{count:,}") for one in made for kind, count in sorted(one.edit_counts().items())]
    return section.add(
        table(("kind", "replacements"), rows, numbers=True), "What no detector knows is still in the text."
    )


def _opt_out(facts: Facts) -> Section:
    section = Section("Opt-out and how to look oneself up")
    section.add(f"{facts.opted_out:,} files were left out at the wish of their owners (reason `opt_out`).")
    if facts.publisher.search_page:
        section.add(f"Look yourself up: {facts.publisher.search_page}.")
    elif facts.index:
        section.add(
            "A service of this run tells what the corpus has of an owner: the page `/search`, `GET /corpus?owner=`."
        )
    else:
        section.lacks("attribution", "No index was made: nobody can look himself up.")
    return section.stated(facts.publisher.asking_out, "asking_out")


def _decontamination(corpus: Corpus) -> Section:
    names = corpus.benchmarks()
    told = f"Held against {', '.join(names)}; files that quote them were dropped." if names else "None was made."
    return Section("Decontamination").add(told)


def _biases(corpus: Corpus) -> Section:
    ordered = sorted(corpus.languages().items(), key=lambda entry: -entry[1]["bytes"])
    total = sum(entry["bytes"] for _, entry in ordered) or 1
    name, entry = ordered[0] if ordered else ("", {"bytes": 0})
    return Section("Biases and limitations").add(
        f"{name or 'No language'} is {entry['bytes'] / total:.1%} of the bytes; code that is public and popular is "
        "over-represented, comments are mostly English, and faults and vulnerabilities of the code are in it."
    )


def _terms(facts: Facts) -> Section:
    section = Section("Terms").add("Each file stays under its own licence, which the column `licenses` names.")
    if facts.publisher.data_terms is None:
        section.missing.append("data_terms")
    return section.add(facts.publisher.data_terms or NOT_STATED)
