"""The agreements between Kinochrome's programs.

`kinochrome/v1/colorizer.proto` is the wire (its stubs lie beside it), `errors` the family of errors that people see.
Of colorizer files, `colorizer_file` reads and seals them, `manifest` is what they say of themselves, `graph_check` what
their graphs may hold, `probe` the pictures that they are tried on.
"""
