"""The curated corpus: edits applied, the funnel counted, the data card written."""
