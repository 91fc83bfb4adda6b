"""The deterministic world: the machines of controller, source and target on made-up hosts, with everything that can go wrong.

Rule: one seed, one clock, one queue of events; nothing here waits, and the same seed gives the same run. The machines are
those of the product, unchanged; only what is around them (disks, processes, network, operator) is made up.
"""
