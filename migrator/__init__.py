"""The controller: decides and records what happens to a migration, and shows it to a person.

Direction of imports: cli | web -> wiring -> app | adapters -> ports -> core -> wire (held by import-linter).
"""

__version__ = "0.1.0"
