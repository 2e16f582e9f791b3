"""Populations of networks: tasks, training many at once, the store on disk."""
