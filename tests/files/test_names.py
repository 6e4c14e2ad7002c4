import pytest

from gatestream.files.names import line, shown


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain name.onnx", "plain name.onnx"),
        ("Größe 日本語 🦆", "Größe 日本語 🦆"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\x1b[31mred\x07\x9b", "\\x1b[31mred\\x07\\x9b"),
        ("bytes \udcff\udc80", "bytes \\xff\\x80"),
        ("\u202eturned\u2028", "\\u202eturned\\u2028"),
    ],
)
def test_only_what_is_for_showing_is_shown_as_it_is(name: str, text: str) -> None:
    assert shown(name) == text
    shown(name).encode()


def test_a_long_line_lacks_its_middle() -> None:
    text = line("a" * 5000 + "b" * 100)
    assert (len(text), text[:800], text[-100:]) == (1005, "a" * 800, "b" * 100)
