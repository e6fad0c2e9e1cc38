"""Tests, a folder for each package. `films` makes films, `reading` takes them apart again."""
