"""From a batch to every sink, in background threads. No TensorFlow."""
