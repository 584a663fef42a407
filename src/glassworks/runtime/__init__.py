"""How a run is carried out: processes, nodes, devices, signals, loggers. Nothing here changes a byte of a result, so no stage's key covers it."""
