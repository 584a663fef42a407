"""`glassworks watch`: a page, or a view in the terminal, of the stages that run and have run. It reads files, and writes none."""
