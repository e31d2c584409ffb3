"""What comes into the corpus: bytes become rows, or refusals with their reason."""
