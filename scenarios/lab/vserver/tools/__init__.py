"""The emulated util-vserver, as one package for a host's own Python: standard library only, relative imports only.

Rule: nothing here is shared with the engine that drives it, so that a mistake in one shows against the other.
"""
