"""Mappings of published weights in the hub's layout to our networks and back. No code of a repository is run, and no pickle is read."""
