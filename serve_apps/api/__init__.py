"""The HTTP dialects over the engine."""
