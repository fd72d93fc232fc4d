"""The page that tells how a model does: as one file, and live."""
