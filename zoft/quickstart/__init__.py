"""The embedded offline world: a generated corpus, a small language model that read it, a task with two unread words."""
