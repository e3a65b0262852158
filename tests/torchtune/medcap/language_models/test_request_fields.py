import pytest

from medcap.language_models.request_fields import RequestFields


@pytest.mark.parametrize(
    ("code", "param", "message", "left"),
    [
        ("unsupported_parameter", "max_tokens", "no", {"temperature": 0, "max_completion_tokens": 9}),
        ("unsupported_value", "temperature", "Only 1 is supported.", {"max_tokens": 9}),
        (
            None,
            None,
            "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            {"temperature": 0, "max_completion_tokens": 9},
        ),
        (None, None, "`temperature` is deprecated for this model.", {"max_tokens": 9}),
        ("400", None, "[{'loc': ('body', 'temperature'), 'msg': 'Extra inputs are not permitted'}]", {"max_tokens": 9}),
        (None, None, "m does not support parameters: ['temperature']", {"max_tokens": 9}),
    ],
)
def test_a_refused_field_is_renamed_or_left_out(code, param, message, left):
    fields = RequestFields(9)
    sent = fields.current
    assert fields.adapt(sent, code, param, message)
    assert fields.current == left
    assert fields.adapt(sent, code, param, message) == ""
    assert len(fields.notices) == 1


@pytest.mark.parametrize(
    ("code", "param", "message"),
    [
        (None, "max_tokens", "max_tokens is too large: 9. This model supports at most 8 completion tokens."),
        ("context_length_exceeded", "messages", "The context has at most 100 tokens."),
        ("unsupported_value", "messages[0].role", "Unsupported value: 'user'"),
        (None, None, "The model does not exist"),
        (400, ["body", "model"], "no such model"),
    ],
)
def test_another_refusal_changes_nothing(code, param, message):
    fields = RequestFields(9)
    assert fields.adapt(fields.current, code, param, message) is None
    assert fields.current == {"temperature": 0, "max_tokens": 9}
