"""From shards to batches: samples, their order, decoded images, token ids, packed rows."""
