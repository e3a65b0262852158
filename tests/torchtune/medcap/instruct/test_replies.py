import pytest

from medcap.instruct.replies import Unusable, read_conversation, read_paragraph

TWO = (("What is it?", "A CT slice."), ("Where?", "In the liver,\nin segment 7."))
PLAIN = "User: What is it?\n\nAssistant: A CT slice.\n\nUser: Where?\n\nAssistant: In the liver,\nin segment 7."


@pytest.mark.parametrize(
    "reply",
    [
        PLAIN,
        f"Here is the conversation:\n\n{PLAIN}\n\n---",
        f"<think>User: no\nAssistant: no</think>\n{PLAIN}",
        f"```\n{PLAIN}\n```",
        PLAIN.replace("User:", "**User:**").replace("Assistant:", "**Assistant**:"),
        PLAIN.replace("User:", "### Human 1:").replace("Assistant:", "- gpt:"),
        PLAIN.replace("User:", "1. Q:").replace("Assistant:", "A:"),
        PLAIN.replace("User:", "### User\n").replace("Assistant:", "### **Assistant**\n"),
        PLAIN.replace("User:", "**Question 1**\n").replace("Assistant:", "**Answer 1**\n"),
        PLAIN.replace(":", "：", 2).replace("User:", "User：").replace("Assistant:", "Assistant："),
        f"{PLAIN}\n\nI hope this helps! Let me know if you need more.",
        f"{PLAIN}\n\n---\n\nPlease feel free to ask for another one.",
        PLAIN.replace("What", "<image>\nWhat"),
        "User: What is it? Assistant: A CT slice. User: Where? Assistant: In the liver,\nin segment 7.",
        '[{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A CT slice."},'
        ' {"from": "human", "value": "Where?"}, {"from": "gpt", "value": "In the liver,\\nin segment 7."}]',
        '```json\n{"conversation": [{"Answer": "A CT slice.", "Question": "What is it?"},'
        ' {"user": "Where?", "assistant": "In the liver,\\nin segment 7."}]}\n```',
        '{"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "What is it?"},'
        ' {"role": "assistant", "content": "A CT slice."}, {"role": "user", "content": "Where?"},'
        ' {"role": "assistant", "content": "In the liver,\\nin segment 7."}]}',
    ],
)
def test_a_conversation_is_read_from_every_form(reply):
    conversation = read_conversation(reply)
    assert (conversation.pairs, conversation.malformed) == (TWO, 0)


@pytest.mark.parametrize(
    ("reply", "finish", "pairs", "malformed"),
    [
        ("User: A?\nUser: B?\nAssistant: b.", "stop", (("B?", "b."),), 1),
        ("Assistant: a.\nUser: B?\nAssistant: b.\nAssistant: c.", "stop", (("B?", "b."),), 2),
        ("User: A?\nAssistant:\nUser: B?\nAssistant: b.\nUser: C?", "stop", (("B?", "b."),), 2),
        ("User: A?\nAssistant: a.\nUser: B?\nAssistant: b is", "length", (("A?", "a."),), 1),
        ("User: A?\nAssistant: a.\nUser: B", "length", (("A?", "a."),), 1),
    ],
)
def test_turns_without_a_partner_are_left_out_and_counted(reply, finish, pairs, malformed):
    conversation = read_conversation(reply, finish)
    assert (conversation.pairs, conversation.malformed) == (pairs, malformed)


@pytest.mark.parametrize(
    ("reply", "finish", "reason"),
    [
        ("", "stop", "the reply is empty"),
        ("<think>User: A?\nAssistant: a.", "length", "the reply is empty"),
        ("I cannot do this.", "stop", "the reply has no turns"),
        ('{"score": 1}', "stop", "the reply has no turns"),
        ("User: A?", "stop", "no whole question and answer"),
        ("User: A?\nAssistant:", "stop", "no whole question and answer"),
        ("User: A?\nAssistant: it is", "length", "the reply was cut off"),
    ],
)
def test_a_reply_without_a_pair_says_why(reply, finish, reason):
    with pytest.raises(Unusable, match=reason):
        read_conversation(reply, finish)


@pytest.mark.parametrize(
    "reply",
    [
        "A CT slice of the liver. There is no ascites.",
        "Here is the rewritten paragraph:\n\nA CT slice of the liver.\nThere is no ascites.",
        'Sure! Here is the paragraph: "A CT slice of the liver. There is no ascites."',
        "<think>hm</think>Paragraph: A CT slice of the liver. There is no ascites.",
    ],
)
def test_a_paragraph_is_read_without_remarks(reply):
    assert read_paragraph(reply).strip('"') == "A CT slice of the liver. There is no ascites."


@pytest.mark.parametrize(
    ("reply", "finish", "reason"),
    [
        ("", "stop", "empty"),
        ("A CT slice of", "length", "cut off"),
        ("- a CT slice\n- no ascites", "stop", "a list or a dialogue"),
        ("Question: A?\nAnswer: b", "stop", "a list or a dialogue"),
    ],
)
def test_a_reply_that_is_no_paragraph_says_why(reply, finish, reason):
    with pytest.raises(Unusable, match=reason):
        read_paragraph(reply, finish)
