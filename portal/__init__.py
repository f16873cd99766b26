"""A web portal through which people who never log in to a cluster run programs on it."""

__version__ = "0.1.0"
