"""Message trees of questions about one image or clip: the medium in the context, one question and its answer in each branch."""

from collections.abc import Iterable

from glassworks.data.messages import SUPERVISED, Medium, Message


def question_tree(medium: Medium, pairs: Iterable[tuple[str, str]]) -> list[Message]:
    """The medium as the message of branch 0, then branch 1, 2, … with a question and its answer."""
    messages = [Message(role="user", content=[medium])]
    for branch, (question, answer) in enumerate(pairs, start=1):
        messages += [
            Message(role="user", content=question, branch=branch),
            Message(role=SUPERVISED, content=answer, branch=branch),
        ]
    return messages
