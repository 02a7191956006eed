"""A second offline world: a small language model that can add and mostly answers in another form than it is asked to."""
