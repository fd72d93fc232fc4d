"""What stands behind `deep_insight_ops`."""
