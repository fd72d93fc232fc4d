"""Carry batches to every sink, in background threads. Imports no TensorFlow."""
