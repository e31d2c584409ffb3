"""The training loop: launch, engine, data, guard, records."""
