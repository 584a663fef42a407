"""`python -m glassworks.cli`, the same as `glassworks`."""

from glassworks.cli import main

main()
