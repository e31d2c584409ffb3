"""Personal data and secrets in source code: detectors, each a pure function of the text, and their replacement."""
