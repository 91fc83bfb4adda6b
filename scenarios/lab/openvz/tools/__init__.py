"""The emulated command-line tools; run inside a lab host with nothing but Python's standard library."""
