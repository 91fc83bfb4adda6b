"""Which files of a VE changed while it ran, so that the pass in the blackout need not walk the tree.

Rule: what is listed may be too much, never too little; whatever cannot be known for certain asks for a scan instead.
"""
