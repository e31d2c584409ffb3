"""Corpus rows as documents of text and special tokens."""
