"""Recipes run in the test's own process: the same steps on the session's Ray, without a Ray job for each."""

from starloom.artifact import Artifact
from starloom.recipe import Recipe, check
from starloom.step import run_step


def made_by(recipe: Recipe) -> dict[str, Artifact]:
    """Run every step; what each has made."""
    made: dict[str, Artifact] = {}
    for one in check(recipe):
        needs = [made.get(need, need) for need in one.entry.needs]
        made[one.entry.name] = run_step(one.step, one.config, root=recipe.root, name=one.entry.name, needs=needs)
    return made
