"""Checks the zips of `make package` and unpacks them as Lambda would.

    python3 infra/packages.py target/lambda FOLDER

leaves FOLDER/ChatStreamFunction/bootstrap and so on, as `sam build` does. With `--any-size` the zips may have any size:
without LTO they are not those that are deployed.
"""

import stat
import sys
import zipfile
from pathlib import Path

from functions import FUNCTIONS

# A cold start loads the whole zip, so its size is limited.
MAX_ZIP_BYTES = 6_000_000


def unpack(package: Path, folder: Path, any_size: bool) -> None:
    size = package.stat().st_size
    if size > MAX_ZIP_BYTES and not any_size:
        sys.exit(f"{package}: {size / 1e6:.2f} MB, more than {MAX_ZIP_BYTES / 1e6:.0f} MB")
    with zipfile.ZipFile(package) as files:
        names = files.namelist()
        if names != ["bootstrap"]:
            sys.exit(f"{package}: contains {names}; Lambda starts `bootstrap`")
        # The high half is the Unix file mode, which Lambda keeps.
        mode = files.getinfo("bootstrap").external_attr >> 16
        if not mode & stat.S_IXOTH:
            sys.exit(f"{package}: bootstrap is not executable for all users, its mode is {mode:o}")
        folder.mkdir(parents=True, exist_ok=True)
        files.extract("bootstrap", folder)
        (folder / "bootstrap").chmod(mode & 0o777)
    print(f"{package}: {size / 1e6:.2f} MB")


def main() -> None:
    arguments = sys.argv[1:]
    any_size = arguments[:1] == ["--any-size"]
    packages, folder = (Path(argument) for argument in arguments[any_size:])
    for function in FUNCTIONS:
        unpack(packages / function.name / "bootstrap.zip", folder / function.resource, any_size)


if __name__ == "__main__":
    main()
