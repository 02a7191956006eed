"""The embedded offline world: a generated corpus, a small language model that has read it, and a task with two unread words."""
