"""PURE. The rule of one running copy, as two machines: `source` and `target`; events in, commands out.

Rule: nothing here does or waits for anything; the agent's `keeper` and the simulator both run these same machines.
"""
