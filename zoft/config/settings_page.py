"""docs/settings.md, made by `python -m zoft.config.settings_page > docs/settings.md`."""

from __future__ import annotations

from zoft.config.manual import groups_of

HEAD = """\
# Settings

zoft's own, with their defaults, as `zoft finetune --help` prints them; Transformers' (`learning_rate`, `max_steps`, …) keep
their names. Written on a command line as `zo_eps=1e-3`, in a recipe as `zo_eps: 1e-3`, in Python as arguments of `ZOConfig`
(the step and what keeps it in bounds). This page is made by `python -m zoft.config.settings_page > docs/settings.md`.
"""


def page() -> str:
    """A table for each group."""
    parts = [HEAD]
    for title, settings in (groups_of("finetune") | groups_of("evaluate")).items():
        rows = [
            f"| `{name}` | `{default}` | {meaning.replace('|', chr(92) + '|')} | {kinds} |"
            for name, default, meaning, kinds in settings
        ]
        heading = title if title.startswith("zoft") else title[:1].upper() + title[1:]
        parts.append(
            "\n".join(
                [f"## {heading}\n", "| setting | default | what it is | may be |", "|---|---|---|---|", *rows, ""]
            )
        )
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
