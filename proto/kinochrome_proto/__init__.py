"""The agreements between Kinochrome's programs.

`kinochrome/v1/colorizer.proto` is the wire (its stubs lie beside it), `manifest` is what a colorizer file
says of itself, `errors` is the family of errors that people see.
"""
