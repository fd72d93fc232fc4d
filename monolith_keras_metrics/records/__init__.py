"""Records: their schema, and the conversion of batches into them."""
