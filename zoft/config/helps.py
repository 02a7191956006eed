"""What settings mean, in the words that stand beside them where they are defined: the comments of their dataclass."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
from functools import cache


def helps_of(owner: type) -> dict[str, str]:
    """Setting to its comment, of a dataclass and of those that it is derived from; empty where there is no source text.

    Reading takes some milliseconds, so it is done where help is asked for and not where a run begins.
    """
    found: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        if dataclasses.is_dataclass(base):
            found |= _own_helps(base)
    return found


@cache
def _own_helps(owner: type) -> dict[str, str]:
    try:
        return commented(inspect.getsource(owner))
    except OSError:  # installed as byte code alone
        return {}


def commented(source: str) -> dict[str, str]:
    """Field to comment: the one behind it, or else the lines of its own right above it.

    >>> commented("class A:\\n    a: int = 1  # how many\\n    # Which,\\n    # of two\\n    b: str = ''\\n    c: int = 2\\n")
    {'a': 'how many', 'b': 'Which, of two'}
    """
    source = textwrap.dedent(source)
    lines, comments = source.splitlines(), {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and "fmt:" not in token.string and "type:" not in token.string:
            comments[token.start[0]] = token.string.lstrip("# ").strip()
    (owner,) = ast.parse(source).body
    assert isinstance(owner, ast.ClassDef)
    found: dict[str, str] = {}
    for node in owner.body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        place = [number for number in range(node.lineno, (node.end_lineno or node.lineno) + 1) if number in comments]
        above = node.lineno - 1
        while not place and above in comments and lines[above - 1].lstrip().startswith("#"):
            above -= 1
        place = place or list(range(above + 1, node.lineno))
        if place:
            found[node.target.id] = " ".join(comments[number] for number in place)
    return found
