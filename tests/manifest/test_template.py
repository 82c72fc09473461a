"""The template language: what it gives, what it refuses, and that secrets stay text."""

import base64
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import TacitError, TemplateError
from tacit.manifest import TemplateData, render
from tacit.manifest.model import Content, Manifest, Marble, Parameters
from tacit.manifest.template import TemplateSecret, check_templates
from tacit.manifest.template.evaluate import MAX_OUTPUT

DATA = TemplateData(
    secrets={
        "k": TemplateSecret("symmetric-key", 16, shared=True, private=b"\x01\xff", public=b"\x01\xff"),
        "a-b": TemplateSecret("symmetric-key", 32, private=b"abcd", public=b"abcd"),
        "c": TemplateSecret("cert-rsa", 2048, valid_for=3, cert=b"c" * 100, private=b"p", public=b"q"),
        "u": TemplateSecret("plain", user_defined=True),
        "p": TemplateSecret("plain", user_defined=True, private="grün".encode(), public="grün".encode()),
        "nul": TemplateSecret("plain", user_defined=True, private=b"a\0", public=b"a\0"),
        "grün": TemplateSecret("plain", user_defined=True, private=b"x", public=b"x"),
    },
    previous_secrets={"k": TemplateSecret("symmetric-key", 16, private=b"\x02", public=b"\x02")},
    root_ca=TemplateSecret(cert=b"root"),
)
RAISED = 'template: data:1:3: executing "data" at '


def file(template: str, data: TemplateData = DATA) -> str:
    return render(Content(template.encode()), data, target="file").decode("latin-1")


def env(template: str, data: TemplateData = DATA) -> str:
    return render(Content(template.encode()), data, target="env").decode()


@pytest.mark.parametrize(
    ("template", "output"),
    [
        ("plain }} text", "plain }} text"),
        ("{{ hex .Secrets.k }}", "01ff"),
        ("{{hex .Secrets.k}}x", "01ffx"),
        ("a \n {{- hex .Secrets.k -}} \t\n b", "a01ffb"),
        ("a{{/* {{ no }} */}}b", "ab"),
        ("a {{- /* c */ -}} b", "ab"),
        ("{{ raw .Secrets.k }}", "\x01\xff"),
        ("{{ base64 .Secrets.k }}", "Af8="),
        ("{{ hex .Secrets.c }}", "71"),
        ("{{ hex .Secrets.c.Private }}", "70"),
        ("{{ .Secrets.k | hex }}", "01ff"),
        ('{{ .Secrets.k | hex | printf "%s-%s" "x" }}', "x-01ff"),
        ('{{ hex (index .Secrets "a-b") }}', "61626364"),
        ('{{ (index .Secrets "a-b").Size }}', "32"),
        ("{{ raw .Secrets.grün }}", "x"),
        ("{{ hex .Previous.Secrets.k }}", "02"),
        ("{{ base64 .MarbleRun.RootCA.Cert }}", "cm9vdA=="),
        ("{{ base64 .Marblerun.RootCA.Cert }}", "cm9vdA=="),
        ("{{ $x := .Secrets.k }}{{ hex $x }}{{ $x.Size }}", "01ff16"),
        ("{{ $a := 3 }}{{ if true }}{{ $a := 5 }}{{ $a }}{{ end }}{{ $a }}", "53"),
        ("{{ $a := 3 }}{{ if true }}{{ $a = 5 }}{{ end }}{{ $a }}", "5"),
        ("{{ if .Secrets.k.Shared }}yes{{ else }}no{{ end }}", "yes"),
        ("{{ if eq .Secrets.k.Size 18 }}y{{ else if eq .Secrets.k.Size 16 }}z{{ else }}n{{ end }}!", "z!"),
        ('{{ if eq .Secrets.k.Type "plain" "symmetric-key" }}y{{ end }}', "y"),
        ('{{ if ne .Secrets.k.Type "plain" }}y{{ end }}', "y"),
        ('{{ or "" "b" }}{{ and "a" "" }}|{{ not true }}', "b|false"),
        ("{{ if or true (pem .Secrets.nope) }}y{{ end }}", "y"),
        ("{{ range .Secrets.k.Public }}{{ . }};{{ end }}", "1;255;"),
        ("{{ range $i, $b := .Secrets.k.Public }}{{ $i }}:{{ $b }};{{ end }}", "0:1;1:255;"),
        ("{{ range .Previous.Secrets.nope }}x{{ else }}none{{ end }}", "none"),
        ("{{ len .Secrets.k.Public }}", "2"),
        ("{{ .Secrets.k.Public }}", "[1 255]"),
        ("{{ .Secrets.nope }}", "<no value>"),
        ("{{ index .Secrets.k.Public 1 }}", "255"),
        ('{{ printf "%x|%X|%s|%d|%v|%t|%%" .Secrets.k.Public "hi" "s" 3 "v" true }}', "01ff|6869|s|3|v|true|%"),
        ('{{ printf "%5d|%-5s|%05d|%q" 42 "ab" -42 "a\\"b" }}', '   42|ab   |-0042|"a\\"b"'),
        ('{{ "\\x41\\n" }}{{ `a\\b` }}', "A\na\\b"),
        ("{{ 0x10 }}{{ -3 }}{{ 1_000 }}{{ 010 }}", "16-310008"),
        ("{{ $b := 0 }}{{ range $b = .Secrets.k.Public }}{{ end }}{{ $b }}", "255"),
        ("{{ $a := 1 }}{{ $b := 2 }}{{ $a = 3 }}{{ $a }}{{ $b }}", "32"),
        ("{{ if .Secrets }}y{{ end }}{{ if .Previous.Secrets.k }}y{{ end }}", "yy"),
        ('{{ printf "%q" (raw .Secrets.k) }}', '"\\x01\\xff"'),
        ('{{ printf "%q" "\\u0085" }}', '"\\u0085"'),
        ("a {{ hex .Secrets.k  -}} b", "a 01ffb"),
        ("{{ range $.Previous.Secrets }}{{ $.Secrets.k.Size }}{{ end }}", "16"),
    ],
)
def test_templates_give_what_go_gives(template: str, output: str) -> None:
    assert file(template) == output


@pytest.mark.parametrize(
    ("template", "output"),
    [
        ('{{ printf "%q" .Secrets.k.Public }}', '"\\x01\\xff"'),
        ('{{ printf "%8q|" .Secrets.p.Public }}', '  "grün"|'),
        ('{{ printf "%q" .Secrets.u.Public }}', '""'),
        ('{{ printf "%-6s|%6s|%06s|" "é" "é" "-é" }}', "é     |     é|0000-é|"),
        ('{{ printf "%5s|" "a\\xe2\\x82b" }}', " a\udce2\udc82b|"),
        ('{{ printf "%4v|%-4d|%04d|" .Secrets.k.Public .Secrets.k.Public .Secrets.k.Public }}', "[   1  255]|[1    255 ]|[0001 0255]|"),
        ('{{ printf "%4v|" .Secrets.u.Public }}', "[]|"),
        ('{{ printf "%v|%7v|%-7v|" nil .Secrets.nope .Secrets.nope.Public }}', "<nil>|  <nil>|<nil>  |"),
        ('{{ printf "%06d|%-06d|%06x|%06t|" -42 -42 -42 true }}', "-00042|-42   |-0002a|00true|"),
        ("{{ hex .Secrets.c.Cert.Raw | len }} {{ len .Secrets.c.Cert.Raw }} {{ raw .MarbleRun.RootCA.Cert.Raw }}", "200 100 root"),
        ("{{ base64 .MarbleRun.RootCA.Cert.Raw }} {{ .MarbleRun.RootCA.Cert.Raw }}", "cm9vdA== [114 111 111 116]"),
        ("{{ eq .Secrets.k.Public nil }} {{ eq nil .Secrets.k }} {{ eq .Secrets nil }}", "false false false"),
        ("{{ eq .Secrets.c.Cert nil }} {{ eq .Secrets.c.Cert.Raw nil }}", "false false"),
        ("{{ eq .Secrets.u.Public nil }} {{ ne .Secrets.u.Public nil }} {{ eq .Secrets.nope nil }}", "true false true"),
        ("{{ eq .Secrets.u.Public .Secrets.u.Private }} {{ eq .Secrets.k.Public .Secrets.u.Public }}", "true false"),
    ],
)  # fmt: skip
def test_values_are_shown_and_compared_as_go_does(template: str, output: str) -> None:
    assert file(template).encode("latin-1") == output.encode("utf-8", "surrogateescape")


def test_a_variable_may_begin_with_a_digit_and_a_pipeline_end_with_a_pipe() -> None:
    assert file("{{ $1 := 3 }}{{ $1 | }}") == "3"


def test_maps_are_walked_in_the_order_of_their_names() -> None:
    assert (
        file("{{ range $k, $v := .Secrets }}{{ $k }},{{ end }}").encode("latin-1").decode() == "a-b,c,grün,k,nul,p,u,"
    )


def test_pem_has_lines_of_64_characters() -> None:
    lines = file("{{ pem .Secrets.c.Cert }}").split("\n")
    assert lines[0] == "-----BEGIN CERTIFICATE-----"
    assert [len(line) for line in lines[1:4]] == [64, 64, 8]
    assert lines[4:] == ["-----END CERTIFICATE-----", ""]
    assert file("{{ pem .Secrets.c.Private }}").startswith("-----BEGIN PRIVATE KEY-----\n")
    assert file("{{ pem .Secrets.c.Public }}").startswith("-----BEGIN PUBLIC KEY-----\n")


def test_a_plain_secret_is_text_in_a_variable() -> None:
    assert env("{{ string .Secrets.p }}") == "grün"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ hex .Secrets.x }}", RAISED + "<hex .Secrets.x>: error calling hex: secret does not exist"),
        ("{{ pem .Secrets.x.Cert }}", RAISED + "<pem .Secrets.x.Cert>: error calling pem: secret does not exist"),
        ("{{ pem .Secrets.k }}", RAISED + "<pem .Secrets.k>: error calling pem: invalid secret type for pem encoding"),
        (
            "{{ hex .Secrets.u }}",
            RAISED + "<hex .Secrets.u>: error calling hex: tried to parse secret with empty value",
        ),
        ("{{ .Nope }}", RAISED + "<.Nope>: can't evaluate field Nope in type manifest.TemplateSecrets"),
        (
            "{{ hex .MarbleRun.Nope }}",
            'template: data:1:17: executing "data" at <.MarbleRun.Nope>: '
            "can't evaluate field Nope in type manifest.ReservedSecrets",
        ),
        ("a\n\n {{ hex .Secrets.x }}", 'template: data:3:4: executing "data" at <hex .Secrets.x>: error calling hex: '),
        ("{{ hex }}", RAISED + "<hex>: wrong number of args for hex: want 1 got 0"),
        ("{{ string .Secrets.p }}", 'template: data:1: function "string" not defined'),
        ("{{ hex .Secrets.x", "template: data:1: unclosed action"),
        ('{{ "abc }}', "template: data:1: unterminated quoted string"),
        ("{{ 'a }}", "template: data:1: unterminated character constant"),
        ("{{/* c", "template: data:1: unclosed comment"),
        ("{{ (hex .Secrets.k }}", "template: data:1: unclosed left paren"),
        ("{{ hex .Secrets.k) }}", "template: data:1: unexpected right paren"),
        ("{{ end }}", "template: data:1: unexpected {{end}}"),
        ("{{ hex .Secrets.a-b }}", "template: data:1: bad character U+002D '-'"),
        ("{{ $x=2 }}", "template: data:1: bad character U+003D '='"),
        ("{{ a€ }}", "template: data:1: bad character U+20AC '€'"),
        ("{{ $@ }}", "template: data:1: bad character U+0040 '@'"),
        ("{{ @ }}", 'template: data:1: unexpected "@" in command'),
        ("{{ hex .Secrets.k & }}", 'template: data:1: unexpected "&" in operand'),
        ("{{ if @ }}{{ end }}", 'template: data:1: unexpected "@" in if'),
        ("{{ \\ }}", 'template: data:1: unexpected "\\\\" in command'),
        ("{{ 3`grün und blau` }}", 'template: data:1: unexpected "`grün und "... in operand'),
        ("{{ € }}", "template: data:1: unrecognized character in action: U+20AC '€'"),
        ("{{ \x01 }}", "template: data:1: unrecognized character in action: U+0001"),
        ("{{ größe }}", 'template: data:1: function "größe" not defined'),
        ("{{ $größe }}", 'template: data:1: undefined variable "$größe"'),
        ("{{ $1 }}", 'template: data:1: undefined variable "$1"'),
        ("{{ 3- }}", 'template: data:1: bad number syntax: "3-"'),
        ("{{ 0xg }}", 'template: data:1: bad number syntax: "0xg"'),
        ("{{ 1 - 1 }}", 'template: data:1: illegal number syntax: "-"'),
        ("{{ 08 }}", 'template: data:1: integer overflow: "08"'),
        ('{{ nope }}{{ "x }}', 'template: data:1: function "nope" not defined'),
        ("{{ if true }}", "template: data:1: unexpected EOF"),
        ("{{ if }}x{{ end }}", "template: data:1: missing value for if"),
        ("{{ }}", "template: data:1: missing value for command"),
        ("{{ $x }}", 'template: data:1: undefined variable "$x"'),
        ("{{ 1 | 2 }}", "template: data:1: non executable command in pipeline stage 2"),
        (
            "{{ range $i, $j := 3 }}{{ end }}",
            'template: data:1:19: executing "data" at <3>: can\'t use 3 to iterate over more than one variable',
        ),
        (
            "{{ range $i, $j := index .Secrets.k.Public 1 }}{{ end }}",
            'template: data:1:19: executing "data" at <index .Secrets.k.Public 1>: '
            "can't use a value of type int to iterate over more than one variable",
        ),
        (
            "{{ pem .Secrets.c.Cert.Raw }}",
            RAISED + "<pem .Secrets.c.Cert.Raw>: error calling pem: invalid secret type for pem encoding",
        ),
        ("{{ .Secrets.c.Cert.IsCA }}", 'template: data:1:11: executing "data" at <.Secrets.c.Cert.IsCA>: '),
        ("{{ len true }}", RAISED + "<len true>: error calling len: len of type bool"),
        ("{{ index .Secrets.nope 1 }}", RAISED + "<index .Secrets.nope 1>: error calling index: index of untyped nil"),
        ('{{ printf "%2000d" 1 }}', RAISED + '<printf "%2000d" 1>: error calling printf: printf: a width of 2000'),
        ('{{ printf "%s" hex }}', 'template: data:1:15: executing "data" at <hex>: wrong number of args for hex'),
        ("{{ if true }}{{ else with 1 }}{{ end }}", "template: data:1: unexpected <with> in input"),
        ("{{ nil }}", RAISED + "<nil>: nil is not a command"),
        ('{{ "a" "b" }}', RAISED + '<"a">: can\'t give argument to non-function "a"'),
    ],
)
def test_refusals_have_the_recorded_words(template: str, words: str) -> None:
    with pytest.raises(TemplateError) as caught:
        file(template)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raw .Secrets.k }}", 'template: data:1: function "raw" not defined'),
        ("{{ string .Secrets.nope }}", RAISED + "<string .Secrets.nope>: error calling string: secret does not exist"),
        (
            "{{ string .Secrets.k }}",
            RAISED + "<string .Secrets.k>: error calling string: "
            "only secrets of type plain are allowed to use string encoding for environment variables",
        ),
        (
            "{{ string .Secrets.nul }}",
            RAISED + "<string .Secrets.nul>: error calling string: secret contains null bytes",
        ),
    ],
)
def test_refusals_in_variables_have_the_recorded_words(template: str, words: str) -> None:
    with pytest.raises(TemplateError) as caught:
        env(template)
    assert str(caught.value) == words


@pytest.mark.parametrize("templates", [True, False])
def test_t21_a_variable_refuses_nul(templates: bool) -> None:
    with pytest.raises(TemplateError, match="content contains null bytes"):
        render(Content(b"a\0b", templates=templates), DATA, target="env")


def test_a_file_may_hold_nul() -> None:
    assert render(Content(b"\0{{ hex .Secrets.k }}"), DATA, target="file") == b"\x0001ff"


def test_content_without_templates_is_left_alone() -> None:
    assert render(Content(b"{{ raw }} literal", templates=False), DATA, target="file") == b"{{ raw }} literal"


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ('{{ define "x" }}{{ end }}', "{{define}}"),
        ('{{ template "x" }}', "{{template}}"),
        ('{{ block "x" . }}{{ end }}', "{{block}}"),
        ("{{ range .Secrets }}{{ break }}{{ end }}", "{{break}}"),
        ("{{ range .Secrets }}{{ continue }}{{ end }}", "{{continue}}"),
        ('{{ html "x" }}', '"html"'),
        ('{{ js "x" }}', '"js"'),
        ('{{ urlquery "x" }}', '"urlquery"'),
        ("{{ call .Secrets }}", '"call"'),
        ('{{ slice "abc" 1 }}', '"slice"'),
        ("{{ 1.5 }}", "1.5"),
        ("{{ 'a' }}", "'a'"),
        ('{{ printf "%08.3f" 1 }}', "printf"),
    ],
)
def test_t21_the_rest_of_gos_language_is_refused_by_name(template: str, name: str) -> None:
    with pytest.raises(TemplateError) as caught:
        file(template)
    assert name in str(caught.value)
    assert "not supported in a manifest" in str(caught.value)


@pytest.mark.parametrize(
    "path",
    ["__class__", "Secrets.__class__", "Secrets.k.__class__", "Secrets.k.Public.data", "Secrets.k.fields", "values"],
)
def test_t21_no_attribute_of_the_program_can_be_reached(path: str) -> None:
    output = ""
    with suppress(TemplateError):
        output = file(f"{{{{ .{path} }}}}")
    assert output in ("", "<no value>")


@pytest.mark.parametrize("template", ["{{ . }}", "{{ .Secrets }}", "{{ .Secrets.k }}", "{{ .Secrets.c.Cert }}"])
def test_a_whole_record_is_never_put_out(template: str) -> None:
    with pytest.raises(TemplateError, match="cannot be put out as it is"):
        file(template)


@given(st.binary(min_size=1, max_size=40) | st.sampled_from([b"{{ .Secrets }}", b"{{ end }}", b"}}", b"\n{{- x -}}"]))
def test_t21_what_a_secret_contains_changes_nothing_else(content: bytes) -> None:
    secret = TemplateSecret("plain", user_defined=True, private=content, public=content)
    data = TemplateData(secrets={"s": secret, "k": DATA.secrets["k"]})
    template = "[{{ hex .Secrets.k }}]{{ raw .Secrets.s }}[{{ hex .Secrets.k }}]{{ if .Secrets.s.Public }}{{ len .Secrets }}{{ end }}"
    output = render(Content(template.encode()), data, target="file")
    assert output == b"[01ff]" + content + b"[01ff]2"


@pytest.mark.parametrize(
    "template",
    [
        "{{ eq .Secrets.canary.Public .Secrets.canary.Public }}",
        "{{ range .Secrets.canary.Type }}{{ end }}",
        '{{ range printf "%s" .Secrets.canary.Public }}{{ end }}',
        "{{ .Secrets.canary.Public.X }}",
        "{{ index .Secrets.canary.Public 99 }}",
        '{{ printf "%t" .Secrets.canary.Public }}',
        '{{ index .Secrets.canary "x" }}',
        "{{ .Secrets.canary }}",
        "{{ hex (raw .Secrets.canary) }}",
    ],
)
def test_t24_a_refusal_never_shows_a_secret(template: str) -> None:
    secret = TemplateSecret("plain", private=b"CANARY", public=b"CANARY")
    with pytest.raises(TemplateError) as caught:
        file(template, TemplateData(secrets={"canary": secret}))
    assert "CANARY" not in str(caught.value)
    assert "CANARY" not in repr(secret)
    assert "67 65" not in str(caught.value)


def test_t21_output_has_a_limit() -> None:
    big = TemplateSecret("plain", private=b"x" * 100_000, public=b"x" * 100_000)
    data = TemplateData(secrets={f"s{number}": big for number in range(20)})
    template = "{{ range .Secrets }}{{ range $.Secrets }}{{ hex . }}{{ end }}{{ end }}"
    with pytest.raises(TemplateError, match=str(MAX_OUTPUT)):
        file(template, data)


def test_t21_nested_ranges_have_a_limit() -> None:
    data = TemplateData(secrets={f"s{number}": TemplateSecret() for number in range(30)})
    with pytest.raises(TemplateError, match="steps"):
        file("{{ range $.Secrets }}" * 20 + "{{ end }}" * 20, data)


@pytest.mark.parametrize("opening", ["{{ if true }}", "{{ (", "{{ range .Secrets }}"])
def test_t21_nesting_has_a_limit(opening: str) -> None:
    with pytest.raises(TemplateError):
        file(opening * 10_000)


PIECES = [
    "{{",
    "}}",
    " ",
    "hex ",
    ".Secrets",
    ".k",
    ".c",
    "$x",
    ":=",
    " | ",
    "(",
    ")",
    "if ",
    "end",
    "else",
    "range ",
    "eq ",
    "1",
    '"a"',
    "index ",
    "printf ",
    '"%s" ',
    ".",
    "-}}",
    "{{- ",
    "/*",
    "*/",
    "\n",
    "x",
    ".Size",
    "len ",
    "not ",
    "nil ",
    "true ",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_any_template_gives_text_or_our_error(pieces: list[str]) -> None:
    for target in ("file", "env"):
        with suppress(TacitError):
            render(Content("".join(pieces).encode()), DATA, target=target)


@given(st.binary(max_size=60))
def test_any_bytes_as_template_give_bytes_or_our_error(template: bytes) -> None:
    with suppress(TacitError):
        render(Content(b"{{" + template), DATA, target="file")


def test_check_templates_names_marble_and_file() -> None:
    parameters = Parameters(files={"/a": Content(b"{{ hex .Secrets.x }}")})
    manifest = Manifest(b"", marbles={"m": Marble("p", parameters=parameters)})
    with pytest.raises(TemplateError, match=r"^in Marble m: file /a: template: data:1:3: "):
        check_templates(manifest, DATA)


def test_check_templates_names_marble_and_variable() -> None:
    parameters = Parameters(env={"A": Content(b"\0", templates=False)})
    manifest = Manifest(b"", marbles={"m": Marble("p", parameters=parameters)})
    with pytest.raises(TemplateError, match=r"^in Marble m: env variable: A: content contains null bytes$"):
        check_templates(manifest, DATA)


def test_the_old_demos_ssl_configuration_is_filled_in() -> None:
    data = TemplateData(marble_cert=TemplateSecret(cert=b"cert", private=b"key"))
    template = "server_key: '{{ base64 .Marblerun.MarbleCert.Private }}' server_cert: '{{ base64 .Marblerun.MarbleCert.Cert }}'"
    key, cert = (base64.b64encode(part).decode() for part in (b"key", b"cert"))
    assert file(template, data) == f"server_key: '{key}' server_cert: '{cert}'"
