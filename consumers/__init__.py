"""One module a stage: a handler takes a record and ports, and returns records."""
