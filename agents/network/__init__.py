"""A VE's place on the network, changed through netlink."""
