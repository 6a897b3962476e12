"""The file of tokens: what it may hold, what is made of it, what is refused, and what a second reading changes."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.errors import SettingError
from opencode_events.prefixes import Prefixes
from opencode_events.tokens import Token, Tokens, load

ONE, TWO = "1" * 32, "two.~/+-_" + "2" * 30


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.toml"
    path.touch(mode=0o600)
    path.write_text(
        f'[one]\ntoken = "{ONE}"\nscopes = ["subscribe", "operate"]\n'
        f'[team-a]\nsha256 = "{hashlib.sha256(TWO.encode()).hexdigest()}"\nscopes = ["publish"]\n'
        'directories = ["/srv/a/", "//srv/./b"]\n'
    )
    return path


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    path.touch(mode=0o600)
    path.write_text(f'[one]\ntoken = "{ONE}"\nscopes = ["publish"]\n')
    return Tokens(path)


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def test_a_table_is_a_token_as_it_is_or_as_its_digest(file: Path) -> None:
    one, two = load(file)

    assert one == Token("one", frozenset({"subscribe", "operate"}), None, digest(ONE))
    prefixes = Prefixes(frozenset({("srv", "a"), ("srv", "b")}))
    assert two == Token("team-a", frozenset({"publish"}), prefixes, digest(TWO))


def test_a_token_is_found_by_its_whole_text(file: Path) -> None:
    tokens = Tokens(file)

    assert [token.name for text in (ONE, TWO) if (token := tokens.find([text]))] == ["one", "team-a"]
    for text in ("", ONE[:-1], ONE + "1", ONE.swapcase() + " ", digest(TWO).hex(), "one", "\udcff\ud800"):
        assert tokens.find([text]) is None
    assert tokens.find([]) is None


def test_of_several_that_are_shown_the_first_counts(file: Path) -> None:
    tokens = Tokens(file)

    found = tokens.find(["x", TWO, ONE])

    assert found is not None
    assert found.name == "team-a"


@given(shown=st.lists(st.text()))
def test_garbage_finds_nothing_and_does_not_raise(shown: list[str], known: Tokens) -> None:
    assert known.find(shown) is None


def test_nothing_that_is_printed_has_a_token(file: Path) -> None:
    for token in load(file):
        for secret in (ONE, TWO, digest(ONE).hex(), repr(digest(ONE))[2:12]):
            assert secret not in repr(token)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no token"),
        ("x y", "is not TOML (at line 1, column 3)"),
        (f'token = "{ONE}"', "token is no table"),
        ("['a b']", "a name has"),
        (f'[a]\ntoken = "{ONE}"', "[a] scopes must be a list"),
        (f'[a]\ntoken = "{ONE}"\nscopes = "subscribe"', "[a] scopes must be a list"),
        (f'[a]\ntoken = "{ONE}"\nscopes = []', "[a] scopes must be some of subscribe, publish, operate, upstream"),
        (f'[a]\ntoken = "{ONE}"\nscopes = ["admin"]', "[a] scopes must be some of"),
        (f'[a]\ntoken = "{ONE}"\nscopes = ["publish"]\nscope = 1', "[a] has another member than directories, scopes"),
        ('[a]\nscopes = ["publish"]', "[a] must have one text, token or sha256"),
        ('[a]\ntoken = 1\nscopes = ["publish"]', "[a] must have one text"),
        (f'[a]\ntoken = "{ONE}"\nsha256 = "{"0" * 64}"\nscopes = ["publish"]', "[a] must have one text"),
        (f'[a]\ntoken = "{"x" * 21}"\nscopes = ["publish"]', "[a] token must have 22 to 512"),
        (f'[a]\ntoken = "{"x" * 22}:"\nscopes = ["publish"]', "[a] token must have 22 to 512"),
        (f'[a]\nsha256 = "{"0" * 63}"\nscopes = ["publish"]', "[a] sha256 must have 64"),
        (f'[a]\ntoken = "{ONE}"\nscopes = ["publish"]\ndirectories = []', "[a] directories is empty"),
        (f'[a]\ntoken = "{ONE}"\nscopes = ["publish"]\ndirectories = "/a"', "[a] directories must be a list"),
        (f'[a]\ntoken = "{ONE}"\nscopes = ["publish"]\ndirectories = ["a"]', "[a] directories must be absolute"),
        (f'[a]\ntoken = "{ONE}"\nscopes = ["publish"]\ndirectories = ["/a/../b"]', "[a] directories must be absolute"),
        (f'[a]\ntoken = "{ONE}"\nscopes = ["operate"]\ndirectories = ["/a"]', "[a] operate is not bounded"),
        (f'[a]\ntoken = "{ONE}"\nscopes = ["upstream"]\ndirectories = ["/a"]', "[a] upstream is not bounded"),
        (f'[a]\ntoken = "{ONE}"\nscopes = ["publish"]\n' * 2, "is not TOML"),
        (
            f'[a]\ntoken = "{ONE}"\nscopes = ["publish"]\n[b]\nsha256 = "{digest(ONE).hex()}"\nscopes = ["publish"]',
            "has one token under two names",
        ),
    ],
)
def test_a_file_that_is_none_is_refused_in_a_sentence_without_a_token(text: str, reason: str, file: Path) -> None:
    file.write_text(text)

    with pytest.raises(SettingError) as refusal:
        load(file)

    assert refusal.value.name == "tokens_file"
    assert f"{file}" in str(refusal.value)
    assert reason in str(refusal.value)
    assert ONE not in str(refusal.value)
    assert "x" * 21 not in str(refusal.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_file_that_is_open_to_others_is_refused(mode: int, file: Path) -> None:
    file.chmod(mode)

    with pytest.raises(SettingError, match="chmod 600"):
        Tokens(file)


def test_a_file_that_is_too_large_is_not_read_to_its_end() -> None:
    with pytest.raises(SettingError, match="has more than 1048576 bytes: these are no tokens"):
        load(Path("/dev/zero"))


def test_a_second_reading_tells_whose_token_is_not_what_it_was(file: Path) -> None:
    tokens = Tokens(file)
    text = file.read_text()

    assert tokens.replace(load(file)) == frozenset()
    file.write_text(text.replace('"operate"', '"publish"'))
    assert tokens.replace(load(file)) == {"one"}
    file.write_text(text.replace("[one]", "[uno]").replace("//srv/./b", "/srv/b"))
    assert tokens.replace(load(file)) == {"one"}
    file.write_text(f'[uno]\ntoken = "{ONE}x"\nscopes = ["publish"]\n')
    assert tokens.replace(load(file)) == {"uno", "team-a"}
    assert tokens.find([ONE]) is None


def test_a_second_reading_that_fails_changes_nothing(file: Path) -> None:
    tokens = Tokens(file)
    file.write_text("[one]\n")

    with pytest.raises(SettingError):
        tokens.replace(load(file))

    assert tokens.find([ONE]) is not None
    assert len(tokens) == 2
