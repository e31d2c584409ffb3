"""What a team adds to Starloom without forking it."""
