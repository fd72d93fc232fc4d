"""Capture of a step's columns from Keras. No other folder depends on Keras."""
