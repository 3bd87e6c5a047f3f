"""A run carried out on Ray Data: all that imports Ray."""
