"""`deep-insight watch`: windows of a run, measured, judged and published while training writes."""
