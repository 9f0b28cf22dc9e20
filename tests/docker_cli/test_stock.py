"""The everyday verbs with the stock docker CLIs: the installed one, and Debian's 20.10."""

from support.everyday import *  # noqa: F401,F403 - the tests
