"""Starloom in editors: the plugins' own sources, what a server gives out of them, and how they are installed."""
