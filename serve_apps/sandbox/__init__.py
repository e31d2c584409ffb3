"""Where generated programs run: isolated, bounded, judged from outside."""
