"""The pictures of the demo's workbook in the README: `python docs/picture.py [WORKBOOK]`.

Without a workbook the demo is played in a scratch folder. Needs LibreOffice (`soffice`) and poppler (`pdftoppm`).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from connector.demo import play
from connector.sandbox.colleague import Package

RESOLUTION: Final = 132  # dots per inch; the sheet at 100 % on a usual screen
BOOK: Final = "xl/workbook.xml"
#: picture → the sheet on it, by how its name begins, and the printed part of the page, in inches: left, top, width, height
PICTURES: Final = {
    "workbook.png": ("Overview", (1.5, 0.55, 8.85, 7.25)),
    "colleague.png": ("Review by", (0.4, 0.4, 10.2, 3.7)),
}


def draw(workbook: Path, sheet: str, crop: tuple[float, float, float, float], picture: Path, scratch: Path) -> None:
    """One sheet of a workbook as a PNG file; the others are hidden in a copy, so that it alone is printed."""
    package = Package(workbook)
    others = rf'<sheet (?=name="(?!{sheet}))'
    package.parts[BOOK] = re.sub(others, '<sheet state="hidden" ', package.text(BOOK)).encode()
    shown = re.findall(r'<sheet [^>]*name="([^"]+)"', package.text(BOOK))
    number = next(place for place, name in enumerate(shown) if name.startswith(sheet))
    package.edit(BOOK, r"<workbookView[^>]*/>", f'<workbookView activeTab="{number}"/>')
    copy = scratch / f"{picture.stem}.xlsx"
    package.save(copy)
    home = f"-env:UserInstallation={(scratch / 'office').as_uri()}"
    command = ["soffice", home, "--headless", "--convert-to", "pdf", "--outdir", str(scratch), str(copy)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - programs of the machine, paths of ours
    left, top, width, height = (str(round(inches * RESOLUTION)) for inches in crop)
    cut = ["-x", left, "-y", top, "-W", width, "-H", height]
    page, target = str(copy.with_suffix(".pdf")), str(picture.with_suffix(""))
    subprocess.run(["pdftoppm", "-png", "-singlefile", "-r", str(RESOLUTION), *cut, page, target], check=True)  # noqa: S603, S607


def main() -> None:
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        given = [Path(name) for name in sys.argv[1:]]
        workbook = given[0] if given else play(scratch / "demo", keep=False, say=lambda _: None)
        for name, (sheet, crop) in PICTURES.items():
            draw(workbook, sheet, crop, Path(__file__).parent / name, scratch)


if __name__ == "__main__":
    main()
