"""From shards to batches: samples by offset, their order, decoded images, captions as token ids."""
