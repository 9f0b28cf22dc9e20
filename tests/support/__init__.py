"""What the black-box suites share: a daemon of their own, its API, terminals, and the counting of leaks."""
