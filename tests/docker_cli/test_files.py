"""cp, diff, export, commit and their like with the stock docker CLIs: the installed one, and Debian's 20.10."""

from support.files import *  # noqa: F401,F403 - the tests
