"""What a release holds: the package with its data, and neither runs nor anything that a machine left. `make release`."""

import sys
import tarfile
import zipfile
from pathlib import Path

NEEDED = ("py.typed", "shipped/digits.npz", "commands/templates/problem.py.txt", "optimizers/lstm.py")
LARGEST = 1_000_000  # bytes of a wheel


def main(folder: Path) -> None:
    """Raise SystemExit, with a line, at the first thing that is wrong."""
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    lacking = [name for name in NEEDED if f"l2lcli/{name}" not in names]
    strange = [name for name in names if not name.startswith(("l2lcli/", "l2lcli-"))]
    if lacking or strange:
        sys.exit(f"{wheel.name}: lacks {lacking}, holds {strange[:5]}")
    if wheel.stat().st_size > LARGEST:
        sys.exit(f"{wheel.name}: {wheel.stat().st_size:,} bytes, more than {LARGEST:,}")
    with tarfile.open(source) as archive:
        inside = archive.getnames()
    if not any(name.endswith("/l2lcli/shipped/digits.npz") for name in inside):
        sys.exit(f"{source.name}: lacks l2lcli/shipped/digits.npz")
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size:,} bytes; {source.name}: {len(inside)} files")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
