"""What runs inside the sandbox: scripts on the standard library alone, which import each other by bare name."""
