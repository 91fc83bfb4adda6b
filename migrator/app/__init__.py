"""trio: runs the machines of the core; knows ports, not adapters."""
