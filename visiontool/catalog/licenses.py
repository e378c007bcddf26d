"""Which licenses of weights let a company use them without asking."""

_PERMISSIVE = {
    "0bsd",
    "apache-2.0",
    "bsd-2-clause",
    "bsd-3-clause",
    "cc-by-3.0",
    "cc-by-4.0",
    "cc0-1.0",
    "isc",
    "mit",
    "unlicense",
    "zlib",
}


def is_permissive(license: str) -> bool:
    """Whether `license` (SPDX) allows commercial use and asks for no more than a notice; an unknown one does not."""
    return license.lower() in _PERMISSIVE
