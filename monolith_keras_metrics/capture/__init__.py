"""Where Keras gives up its columns. The only family that knows Keras."""
