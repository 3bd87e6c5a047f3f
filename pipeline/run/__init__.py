"""A run before it is carried out: configuration, plan, preparation."""
