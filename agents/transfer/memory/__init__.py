"""Memory pre-copy: what a VE's memory holds, sent while the VE runs, so that the blackout pays for what changed.

Start reading at ``port``; the design, its measurements and its limits are in ``docs/memory.md``.
"""
