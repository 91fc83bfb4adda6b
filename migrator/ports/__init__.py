"""What the application needs of the outside, as protocols; the contract of each stands in its docstring."""
