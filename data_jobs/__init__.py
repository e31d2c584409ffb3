"""Ray Data jobs: from sources to a curated corpus, a tokenizer and packed token shards."""
