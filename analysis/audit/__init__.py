"""Findings: what a run shows that a person should look at, tested and ranked."""
