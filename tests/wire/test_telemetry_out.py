"""The file that says where telemetry goes: what it may say, and what is told about mistakes."""

import tomllib

import pytest

from madang.wire.telemetry_out import TelemetryOutError, TelemetryOutFile, read_telemetry_out

WHOLE = """
[queue]
size_max = "10GB"

[labels]
cluster = "yard-1"

[scrape]
loopback_open = true
token_file = "/etc/madang/scrape.token"
gpus_max = 5000

[history]
url = "http://vm:8428/select/0/prometheus"
timeout = "5s"

[[destination]]
name = "hot"
url = "http://vm:8428/api/v1/write"

[[destination]]
name = "archive"
url = "https://vm.example/api/v1/write"
metrics = ["gpu_util_percent", "madang_node_*"]
subjects = ["gpu", "node"]
groups = ["h100*"]
resolution = "1m"
user = "madang"
password_file = "/etc/madang/archive.password"
headers = { X-Scope-OrgID = "yard" }
timeout = "500ms"
"""


def test_a_whole_file_says_what_it_says() -> None:
    found = read_telemetry_out(WHOLE)

    assert found.queue.size_max == 10_000_000_000
    assert found.history is not None
    assert found.history.timeout == 5.0
    assert [one.name for one in found.destination] == ["hot", "archive"]
    assert (found.destination[1].timeout, found.destination[1].resolution) == (0.5, "1m")


def test_an_empty_file_sends_nothing_and_opens_nothing() -> None:
    found = read_telemetry_out("")

    assert found == TelemetryOutFile()
    assert found.destination == []
    assert not found.scrape.loopback_open


DESTINATION = '[[destination]]\nname = "hot"\nurl = "http://vm/api/v1/write"\n'

WRONG = [
    ("[queue", "not TOML"),
    ("[queues]", "queues: there is no such key; there are: destination, history, labels"),
    ('[queue]\nsize_max = "lots"', "queue, size_max: 'lots' is not a size; write 512MiB"),
    ('[queue]\nsize_max = "1MiB"', "queue, size_max: Input should be greater than"),
    (DESTINATION + "colour = 1", "destination 1, colour: there is no such key; there are: ca_file"),
    (DESTINATION * 2, "two destinations are called 'hot'"),
    (DESTINATION + 'resolution = "5m"', "destination 1, resolution: Input should be 'raw' or '1m'"),
    (DESTINATION + 'timeout = "soon"', "'soon' is not a time; write 500ms, 10s or 1m"),
    (DESTINATION + 'token_file = "secret"', "'secret' is not an absolute path"),
    (DESTINATION + 'user = "ada"', "user and password_file go together"),
    (
        DESTINATION + 'token_file = "/a"\nuser = "b"\npassword_file = "/c"',
        "token_file and user exclude each other",
    ),
    (
        DESTINATION + 'headers = { Authorization = "Bearer hunter2" }',
        "Authorization: a secret belongs in a file",
    ),
    (DESTINATION + 'headers = { "X A" = "b" }', "'X A' cannot be a header"),
    (DESTINATION + 'headers = { X = "a\\r\\nY: b" }', "'X' cannot be a header"),
    (DESTINATION + 'metrics = ["gpu util"]', "destination 1, metrics 1: String should match"),
    ('[[destination]]\nname = "hot"\nurl = "vm:8428"', "'vm:8428' is not an address"),
    ('[[destination]]\nname = "hot"\nurl = "http://vm:0x"', "has no port that there is"),
    ('[[destination]]\nname = "hot"\nurl = "http://u:hunter2@vm/w"', "no secrets in an address"),
    ('[[destination]]\nname = "../hot"\nurl = "http://vm/w"', "destination 1, name: String should"),
    ('[[destination]]\nname = "hot"', "destination 1, url: Field required"),
    ('[labels]\nnode = "a"', "'node' cannot be a label; these are taken"),
    ('[labels]\n"a-b" = "c"', "'a-b' cannot be a label"),
    ('[labels]\ncluster = ""', "the label cluster has no value"),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_a_mistake_is_named_with_its_place_and_no_secret_is_repeated(text: str, said: str) -> None:
    with pytest.raises(TelemetryOutError) as wrong:
        read_telemetry_out(text)

    assert said in str(wrong.value)
    assert "hunter2" not in str(wrong.value)


def test_every_mistake_is_told_at_once() -> None:
    text = '[queue]\nsize_max = "x"\n[scrape]\ngpus_max = -1\n'

    with pytest.raises(TelemetryOutError) as wrong:
        read_telemetry_out(text)

    assert len(str(wrong.value).splitlines()) == 2


def test_the_example_in_the_modules_text_is_a_file() -> None:
    from madang.wire import telemetry_out

    assert telemetry_out.__doc__ is not None
    lines = telemetry_out.__doc__.splitlines()
    example = "\n".join(line[4:] for line in lines if line.startswith("    "))

    assert tomllib.loads(example)
    assert len(read_telemetry_out(example).destination) == 2
