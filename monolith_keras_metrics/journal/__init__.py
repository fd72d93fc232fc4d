"""Keep records on disk until every sink has them."""
