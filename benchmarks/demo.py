"""Colours a short film and shows the result: `make demo`, or `make demo FILM=old.mp4`."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from . import contact_sheet, photographs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--film", type=Path, help="a film of yours; by default one is made from photographs")
    parser.add_argument("--out", type=Path, default=Path("demo.mp4"), help="the coloured film (default demo.mp4)")
    arguments = parser.parse_args()
    command = Path(sys.executable).with_name("kinochrome")
    with tempfile.TemporaryDirectory() as folder:
        film: Path = arguments.film or Path(folder) / "photographs.mp4"
        if arguments.film is None:
            print(f"making a black-and-white film from photographs: {photographs.make(film)} frames")
        colouring = [command, "colorize", film, "-o", arguments.out, "--overwrite"]
        if code := subprocess.run(colouring).returncode:
            return code
        sheet = arguments.out.with_suffix(".png")
        contact_sheet.save(film, arguments.out, sheet)
    print(f"{sheet}: gray above, coloured below")
    return 0


if __name__ == "__main__":
    sys.exit(main())
