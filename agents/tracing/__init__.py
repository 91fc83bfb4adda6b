"""Stopping threads of other programs for an instant (ptrace(2)): what they hold is read, lent or given back.

Rule: whoever is touched here goes on as if nobody had been there.
"""
