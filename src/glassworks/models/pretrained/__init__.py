"""Published weights in the hub's layout, mapped onto our networks and back. No code of a repository is ever run, no pickle read."""
