"""Ways out of a run: tables, selected clips, and a dataset that FiftyOne imports."""
