"""What an opt-out did, as a page for the one who asked and for who keeps the run."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from starloom.markdown import table

LISTED: Final = 200  # files of a list; the JSON beside the page has all


def opt_out_page(told: Mapping[str, Any]) -> str:
    """The page; `told` is what the JSON beside it holds."""
    removed, copies = told["removed"], told["copies"]
    sections = [
        f"# Opt-out of {', '.join(told['names'])}",
        f"Recipe {told['recipe']}, begun {told['began']} (UTC). {told['why']}".rstrip(),
        *_unknown(told),
        f"## Files that went\n\n{len(removed):,} files of the corpus {told['corpus']['before'] or '(none was made)'}; "
        f"the text of {told['collected_rows']:,} collected rows was taken out.",
        *_list([f"{one['repository']}/{one['path']}" for one in removed]),
        f"## Files that came back\n\n{len(told['came_back']):,}: they had been dropped as copies of a file that went.",
        *_list([f"{one['repository']}/{one['path']}" for one in told["came_back"]]),
        "## Copies that stay in other repositories",
        *_copies(copies),
        "## Artifacts that were removed",
        *_list([f"{one['artifact']} ({one['kind']})" for one in told["artifacts_removed"]]),
        "Evaluations, memorization results and reports that quote a line of the text, which nobody else has, were "
        "removed as well.",
        "## What was trained before",
        *_trained(told),
        "## What was not touched",
        "Decision tables hold names, places and reasons, no text. Services that were started before keep the old index "
        "open and show nothing of it; start them again. Copies on other machines, in backups, and in whatever was "
        "exported from this run are out of reach here.",
    ]
    if told["failure"]:
        sections.append(
            f"## The data could not be made again\n\n{told['failure']}\n\nThe old text is gone all the same."
        )
    return "\n\n".join(sections) + "\n"


def _unknown(told: Mapping[str, Any]) -> list[str]:
    if not told["unknown"]:
        return []
    return [f"Nothing was collected of {', '.join(told['unknown'])}; the entry is kept for later runs."]


def _copies(copies: Sequence[Mapping[str, Any]] | None) -> list[str]:
    if copies is None:
        return ["Not looked for: the run has no index of the corpus (a step that runs data_jobs.index)."]
    if not copies:
        return ["None: no file of the corpus has four of five lines of a file that went."]
    rows = [(c["removed"], c["stays"], ", ".join(c["licenses"]) or "none", f"{c['share']:.0%}") for c in copies]
    return [
        "They are their owners' files, under their licences. To take them out, opt them out by their names.",
        table(("file that went", "stays as", "licences", "lines"), rows[:LISTED]),
        *_more(len(rows)),
    ]


def _trained(told: Mapping[str, Any]) -> list[str]:
    models, tokenizers = told["models"], told["tokenizers"]
    if not models and not tokenizers:
        return ["No model and no tokenizer."]
    return [
        "These have learned from the text and keep what they have learned; only training again without it changes that "
        "(`starloom run`).",
        *_list([*(f"model {name}" for name in models), *(f"tokenizer {name}" for name in tokenizers)]),
    ]


def _list(lines: Sequence[str]) -> list[str]:
    shown = "\n".join(f"- {_plain(line)}" for line in lines[:LISTED])
    return [shown, *_more(len(lines))] if shown else []


def _more(count: int) -> list[str]:
    return [f"and {count - LISTED:,} more; the JSON file beside this page lists all"] if count > LISTED else []


def _plain(text: str) -> str:
    return " ".join(text.replace("`", "'").replace("<", "&lt;").split())
