"""The picture of the demo's workbook in the README: `python docs/picture.py [WORKBOOK]`.

Without a workbook the demo is played in a scratch folder. Needs LibreOffice (`soffice`) and poppler (`pdftoppm`).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from connector.demo import play

PICTURE: Final = Path(__file__).parent / "workbook.png"
RESOLUTION: Final = 132  # dots per inch; the sheet at 100 % on a usual screen
FIRST_PAGE: Final = 'pdf:calc_pdf_Export:{"PageRange":{"type":"string","value":"1"}}'
#: the printed Overview within the page, in inches: left, top, width, height
CROP: Final = (1.5, 0.55, 8.85, 7.25)


def draw(workbook: Path, picture: Path, scratch: Path) -> None:
    """The first sheet of a workbook as a PNG file."""
    home = f"-env:UserInstallation={(scratch / 'office').as_uri()}"
    command = ["soffice", home, "--headless", "--convert-to", FIRST_PAGE, "--outdir", str(scratch), str(workbook)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - programs of the machine, paths of ours
    left, top, width, height = (str(round(inches * RESOLUTION)) for inches in CROP)
    crop = ["-x", left, "-y", top, "-W", width, "-H", height]
    page = scratch / f"{workbook.stem}.pdf"
    target = str(picture.with_suffix(""))
    subprocess.run(["pdftoppm", "-png", "-singlefile", "-r", str(RESOLUTION), *crop, str(page), target], check=True)  # noqa: S603, S607


def main() -> None:
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        given = [Path(name) for name in sys.argv[1:]]
        workbook = given[0] if given else play(scratch / "demo", keep=False, say=lambda _: None)
        draw(workbook, PICTURE, scratch)


if __name__ == "__main__":
    main()
