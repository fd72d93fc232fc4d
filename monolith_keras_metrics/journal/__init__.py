"""Records on disk until every sink has them."""
