"""Entry points, one per verb: parse, validate, call, report. Run as ``python -m jobs.<verb>``."""
