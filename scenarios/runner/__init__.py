"""Acceptance scenarios: a lab, what an operator types in it, moves by the `migrator` program, and what must be true then.

Rule: a scenario is data. The runner knows hosts, shells, clients and addresses, and nothing of any engine but how to put
its tools on a lab host; whatever an operator of that engine knows stands in the file, in that operator's own commands.
The format: docs/scenarios.md.
"""
