"""`glassworks demo`: a web page on which trained models are tried. Needs the extra `demo`."""
