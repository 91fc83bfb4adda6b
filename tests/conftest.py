"""What all tests share.

Rule: no test fails because the machine was busy. Hypothesis gives each example 0.2 s by default; here it takes what it takes.
"""

from hypothesis import settings

settings.register_profile("untimed", deadline=None, print_blob=True)
settings.load_profile("untimed")
