"""PURE. The language the controller and the agents share: facts, faults, messages, and how they become bytes.

Rule: nothing here opens, reads, waits or knows the time; both sides import it, so it imports neither.
"""
