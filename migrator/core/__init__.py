"""PURE. Decides everything that can happen to a migration, and touches nothing."""
