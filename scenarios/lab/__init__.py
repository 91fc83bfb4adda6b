"""A fleet of real hosts on one machine: namespaces, a Debian root each, a switch between them."""
