"""One outside thing per file: SSH, the journal, settings, metrics, the agent's program file."""
