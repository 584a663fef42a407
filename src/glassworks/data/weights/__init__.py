"""Published weights, fetched or copied, and converted once to the hub's layout."""
