"""What a run has to say at its end: a figure, a table, and the memory that was measured."""
