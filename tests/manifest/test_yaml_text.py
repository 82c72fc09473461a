"""YAML as MarbleRun's command line turns it into JSON: the words of YAML 1.1, Go's numbers, and what is refused.

Each pair here was compared with the fingerprint that `marblerun manifest signature` of v1.9.1 prints for the text.
"""

import pytest

from tacit.errors import InputError
from tacit.manifest.yaml_text import MAX_VALUES, convert_yaml

WORDS = {
    "yes": "true",
    "y": "true",
    "On": "true",
    "TRUE": "true",
    "n": "false",
    "off": "false",
    "~": "null",
    "": "null",
    "Null": "null",
    "tRue": '"tRue"',
    "nUll": '"nUll"',
    "'yes'": '"yes"',
    "2030-01-01": '"2030-01-01"',
    "2030-01-01T00:00:00Z": '"2030-01-01T00:00:00Z"',
    "22:22": '"22:22"',
}
NUMBERS = {
    "010": "8",
    "0o17": "15",
    "0x1F": "31",
    "-0b11": "-3",
    "08": "8",
    "+12": "12",
    "1_000": "1000",
    "_1": '"_1"',
    "0x": '"0x"',
    "12345678901234567890": "12345678901234567890",
    "123456789012345678901": "123456789012345680000",
    "-9223372036854775809": "-9223372036854776000",
    "1e3": "1000",
    "1.0": "1",
    "1.50": "1.5",
    ".5": "0.5",
    "-0.0": "-0",
    "1e21": "1e+21",
    "0.000001": "0.000001",
    "2.5e-7": "2.5e-7",
    "1e400": '"1e400"',
    "!!str 123": '"123"',
    "!!binary aGk=": '"hi"',
    "!!float 3": "3",
    "!mine x": '"x"',
}


@pytest.mark.parametrize(("text", "json"), [*WORDS.items(), *NUMBERS.items()])
def test_a_plain_word_means_what_it_means_there(text: str, json: str) -> None:
    assert convert_yaml(f"a: {text}".encode()) == f'{{"a":{json}}}'.encode()


def test_text_is_written_as_go_writes_it() -> None:
    text = "a: x && y > z\nb: 'é\u2028'"
    assert convert_yaml(text.encode()) == '{"a":"x \\u0026\\u0026 y \\u003e z","b":"é\\u2028"}'.encode()


@pytest.mark.parametrize("text", ["hello", "# only a comment", "- a", ""])
def test_a_manifest_is_a_mapping(text: str) -> None:
    with pytest.raises(InputError, match="expected a mapping"):
        convert_yaml(text.encode())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_slash_is_escaped_in_quotes_of_json_alone(encoding: str) -> None:
    text = """%YAML 1.1\n---\n# "\\/"\na: 'é\\/'\nb: \\/\nc: "\\\\/"\nd: |\n  "\\/"\n"""
    assert convert_yaml(text.encode(encoding)) == (r'{"a":"é\\/","b":"\\/","c":"\\/","d":"\"\\/\"\n"}'.encode())
    with pytest.raises(InputError, match="a slash is not escaped"):
        convert_yaml('a: "é\\/"'.encode(encoding))


def test_keys_are_sorted_and_become_text() -> None:
    assert convert_yaml(b"b: 1\na: 2\nB: 3\n10: x\n9: w\nyes: z\n") == (
        b'{"10":"x","9":"w","B":3,"a":2,"b":1,"true":"z"}'
    )


def test_aliases_and_merged_mappings_are_written_out() -> None:
    text = b"b: &x {q: 1}\nc: &y {s: 1}\na:\n  <<: [*x, *y]\n  r: 3\nd: *x\n"
    assert convert_yaml(text) == b'{"a":{"q":1,"r":3,"s":1},"b":{"q":1},"c":{"s":1},"d":{"q":1}}'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\na: 2", 'line 2, column 1: the key "a" stands here again'),
        ("b: &x {q: 1}\na:\n  <<: *x\n  q: 3", 'the key "q" stands here again'),
        ("a: .inf", "without end"),
        ("a: .nan", "none"),
        ("? [a]\n: b", "a key has to be text"),
        ("1.5: x", "a key has to be text"),
        ("<<: 1", "<< takes a mapping"),
        ("a: !!int x", "!!int does not fit"),
        ("a: !!bool 1", "!!bool does not fit"),
        ("a: !!binary '@@'", "no base64"),
        ("a: [", "no YAML: line "),
        ("a: -", "no YAML: line "),
        ("a: 1\n---\nb: 2", "no YAML: line "),
        ("a: &a [*a]", f"more than {MAX_VALUES} values"),
        ("[" * 3000 + "]" * 3000, "nested too deeply"),
        ("%YAML 1.2\n---\na: 1", "line 1, column 1: YAML 1.1 is read"),
        ('a: 1\nä: "é😀\\/x"', "line 2, column 4: a slash is not escaped"),
        ('"\\\\\\/": 1', "line 1, column 1: a slash is not escaped"),
        ('a: "x\\\n  \\/"', "line 1, column 4: a slash is not escaped"),
    ],
)
def test_what_cannot_be_said_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason.replace("[", r"\[")):
        convert_yaml(text.encode())
