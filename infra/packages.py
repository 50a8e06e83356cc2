"""Unpacks the zips of `make package` as Lambda would, after a look at what is in them.

    python3 infra/packages.py target/lambda FOLDER

leaves FOLDER/ChatStreamFunction/bootstrap and so on, as `sam build` does.
"""

import stat
import sys
import zipfile
from pathlib import Path

FUNCTIONS = {
    "chat-stream": "ChatStreamFunction",
    "clear-history": "ClearHistoryFunction",
    "session-meta": "SessionMetaFunction",
}
# A cold start loads what the zip holds.
MOST_BYTES = 6_000_000


def unpack(package: Path, folder: Path) -> None:
    size = package.stat().st_size
    if size > MOST_BYTES:
        sys.exit(f"{package}: {size / 1e6:.2f} MB, over {MOST_BYTES / 1e6:.0f} MB")
    with zipfile.ZipFile(package) as files:
        names = files.namelist()
        if names != ["bootstrap"]:
            sys.exit(f"{package}: holds {names}, and Lambda starts `bootstrap`")
        # The high half is the mode of Unix; Lambda keeps it.
        mode = files.getinfo("bootstrap").external_attr >> 16
        if not mode & stat.S_IXOTH:
            sys.exit(f"{package}: bootstrap is not executable for everybody, but {mode:o}")
        folder.mkdir(parents=True, exist_ok=True)
        files.extract("bootstrap", folder)
        (folder / "bootstrap").chmod(mode & 0o777)
    print(f"{package}: {size / 1e6:.2f} MB")


def main() -> None:
    packages, folder = (Path(argument) for argument in sys.argv[1:])
    for name, logical_id in FUNCTIONS.items():
        unpack(packages / name / "bootstrap.zip", folder / logical_id)


if __name__ == "__main__":
    main()
