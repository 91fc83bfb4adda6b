"""The program on each host: does what a controller orders, and keeps the rule of one running copy by itself.

Imports `migrator.wire` (the shared language) and nothing else of the controller.
"""
