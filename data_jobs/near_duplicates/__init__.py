"""Near-duplicate detection: signatures, candidates, verification, components and keepers, one noun a file."""
