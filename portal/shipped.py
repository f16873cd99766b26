"""Where the files are that travel with the portal: the applications and their programs."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_SHIPPED = frozenset({"job_templates", "bin"})


def shipped_dir(name: str) -> Path:
    """The folder `job_templates` or `bin` that comes with the portal; an absolute path.

    In a checkout it is the top-level folder, so that an edit counts at once; installed from a wheel it is the copy
    inside the package. Raises ValueError for any other name. Whether the folder exists is not checked in the wheel.
    """
    if name not in _SHIPPED:
        raise ValueError(f"nothing called {name!r} is shipped")
    checkout = _PACKAGE.parent / name
    # `site-packages/bin` is no checkout: some packages leave such folders behind.
    if (_PACKAGE.parent / "pyproject.toml").is_file() and checkout.is_dir():
        return checkout
    return _PACKAGE / "_shipped" / name
