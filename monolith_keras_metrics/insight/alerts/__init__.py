"""Alerts about a run that is watched: rules in a file, judged whenever a window closes."""
