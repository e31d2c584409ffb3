"""Ray Serve: the completion engine and its API, evaluation, leaderboard."""
