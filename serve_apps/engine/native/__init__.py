"""The forward pass in C++, compiled at first use for the processor it runs on."""
