"""The leaderboard: models by benchmark, with intervals, from the stored evaluations."""
