"""Scenarios: data that says what is to happen, and the lab of real hosts in which it happens."""
