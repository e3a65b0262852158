"""Several processes answer one benchmark: a common queue of parts, answers in a file a process, one file at the end."""
