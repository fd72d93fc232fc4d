"""The implementation of `deep_insight_ops`."""
