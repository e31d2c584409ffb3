"""Where a piece of code stands in the corpus: an index of sampled windows, and look-ups that verify each hit."""
