"""How long a test waits for what comes, however busy the machine is: none asserts on the clock."""

PATIENCE = 480.0  # seconds; below pytest's own limit for a test, so that the failure names what was waited for
