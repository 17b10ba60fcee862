"""`python -m maquette` is the `maquette` command; `torchrun -m maquette` too."""

from maquette.cli import main

main()
