"""What a run owes to the authors of its data: opt-outs carried out everywhere, cards, obligations."""
