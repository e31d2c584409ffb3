"""Fine-tuning: conversations as tokens, and a model that goes on from a folder."""
