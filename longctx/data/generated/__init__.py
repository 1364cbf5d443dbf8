"""Training text that is made and not read: tasks whose answers are known."""
