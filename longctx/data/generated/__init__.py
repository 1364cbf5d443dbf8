"""Training text that is made and not read: tasks whose answers are known. api.py has the names of data.generated."""
