"""`python -m glassworks.cli`, as `glassworks`."""

from glassworks.cli import main

main()
