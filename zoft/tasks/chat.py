"""Instructions and conversations in the tokenizer's own chat template; only what the assistant says is taught."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zoft.errors import UsageError
from zoft.tasks.base import Architecture, Example, Task, column_value

ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant"}  # as some files call them
Message = Mapping[str, str]


@dataclass(frozen=True)
class Chat(Task):
    """A row holds `messages` (role and content, or from and value), or one instruction and its answer.

    A conversation gives one example for each turn of the assistant: all that was said before is the prompt, the turn,
    with the token that ends it, the answer. What is too long loses its earliest turns, never the last question.
    """

    metric: str = "loss"
    objective: str = "language_modelling"
    architectures: tuple[Architecture, ...] = ("causal",)
    tokenizer: Any = None  # whose chat template writes the text

    @property
    def columns(self) -> tuple[str, ...]:
        return ("messages",)

    def worded_by(self, tokenizer: Any) -> Chat:
        """The chat in `tokenizer`'s template.

        Raises:
            UsageError: it has none.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise UsageError(
                f"task {self.name} needs a tokenizer with a chat template, and this one has none; use a chat model's "
                "(tokenizer=…), or task=custom with template and target_column"
            )
        return replace(self, tokenizer=tokenizer)

    def unfolded(self, record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        messages = conversation(record)
        answered = [n for n, message in enumerate(messages) if message["role"] == "assistant" and n]
        if not answered:
            yield record if not messages else {"messages": messages}
        for number in answered:
            yield {"messages": messages[: number + 1]}

    def example(self, row: Mapping[str, Any], number: int, source: str = "") -> Example:
        where = f"{source}, row {number}" if source else f"row {number}"
        messages = column_value(row, "messages", where)
        if not messages or messages[-1]["role"] != "assistant":
            raise UsageError(f"{where}: the assistant says nothing in this conversation, so there is nothing to teach")
        if not messages[-1]["content"].strip():
            raise UsageError(f"{where}: the assistant's answer is empty")
        prompt = self._written(messages[:-1], where, asks=True)
        whole = self._written(messages, where)
        if not whole.startswith(prompt):
            raise UsageError(
                f"{where}: the chat template does not write the answer behind its own prompt for one; "
                "use task=custom with a template of your own"
            )
        return Example(
            prompt=prompt,
            candidates=(whole[len(prompt) :],),
            gold=0,
            row=number,
            source=source,
            passage=self._earlier(messages[:-1], prompt, where),
            special=False,
        )

    def _earlier(self, asked: Sequence[Message], prompt: str, where: str) -> tuple[int, int]:
        """Characters of the turns before the last question: what may be dropped to make a conversation fit."""
        spoken = [message for message in asked if message["role"] != "system"]
        if len(spoken) < 2:
            return 0, 0
        start, before = prompt.find(spoken[0]["content"]), self._written(asked[:-1], where)
        return (start, len(before)) if prompt.startswith(before) and 0 <= start < len(before) else (0, 0)

    def _written(self, messages: Sequence[Message], where: str, asks: bool = False) -> str:
        if self.tokenizer is None:
            raise UsageError(
                f"task {self.name}: which tokenizer writes the conversation? Call worded_by(tokenizer) first"
            )
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=asks)
        except TemplateError as error:  # as where it wants turns to alternate
            raise UsageError(f"{where}: the chat template refuses this conversation: {error}") from error


def conversation(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """The messages in a row of any of the usual layouts; empty where it is none of them.

    >>> conversation({"instruction": "Add.", "input": "1 2", "output": "3"})
    [{'role': 'user', 'content': 'Add.\\n\\n1 2'}, {'role': 'assistant', 'content': '3'}]
    >>> conversation({"conversations": [{"from": "human", "value": "Hi"}]})
    [{'role': 'user', 'content': 'Hi'}]
    """
    said = record.get("messages", record.get("conversations"))
    if isinstance(said, Sequence) and not isinstance(said, str):
        turns = [(turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))) for turn in said]
        return [{"role": ROLES.get(str(role), str(role)), "content": str(text or "")} for role, text in turns]
    for asks, answers in (("instruction", "output"), ("instruction", "response"), ("prompt", "completion")):
        if asks in record and answers in record:
            asked = "\n\n".join(part for part in (record[asks], record.get("input")) if part)
            answer = {"role": "assistant", "content": str(record[answers] or "")}
            return [{"role": "user", "content": asked}, answer]
    return []


CHAT = Chat(name="chat")
