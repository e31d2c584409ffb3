"""Starloom: from a team's repositories to a served, evaluated code model on one Ray cluster."""

__version__ = "0.1.0"
