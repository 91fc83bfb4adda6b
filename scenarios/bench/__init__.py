"""Our migration against other ways of moving a container, on the same hosts, workload and line, in one run."""
