"""Published weights: fetched or copied, converted once to the hub's layout."""
