"""Code of a user that is called by name: whatever it raises is one line with file and line."""

import sys

import pytest

from domino_jax.core.errors import InputError
from domino_jax.core.factories import call_factory, find_factory, named
from domino_jax.train.loop import Stopped


class Strange(BaseException):
    """Is no Exception."""


def exits(error):
    sys.exit(error)


def fails(error):
    raise error


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Makes a module of someone else; returns its file."""

    def make(text):
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "someones", raising=False)
        (tmp_path / "someones.py").write_text(text)
        return tmp_path / "someones.py"

    return make


@pytest.mark.parametrize("line", ["sys.exit(0)", "1 / 0", "raise GeneratorExit"])
def test_a_module_that_fails_when_imported(line, own):
    file = own(f"import sys\n{line}\n")
    said = rf"^loss 'someones:f': cannot import someones: \w+.* \({file}, line 2\); DOMINO_TRACE"
    if line.endswith("GeneratorExit"):  # which ends a generator of ours that reads
        with pytest.raises(GeneratorExit):
            find_factory("someones:f", {}, what="loss")
        return
    with pytest.raises(InputError, match=said):
        find_factory("someones:f", {}, what="loss")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sys.exit(0)", "SystemExit: 0"),
        ("raise BaseException", "BaseException"),
        ("{}['lost']", "KeyError: 'lost'"),
    ],
)
def test_a_function_that_fails_when_called(line, said, own):
    file = own(f"import sys\ndef f(width):\n  {line}\n")
    line = rf"^model 'someones:f': {said} \({file}, line 3\); DOMINO_TRACEBACK=1 shows more$"
    with pytest.raises(InputError, match=line):
        find_factory("someones:f", {}, what="model")(3)
    with pytest.raises(InputError, match=line):
        call_factory("someones:f", {}, {"width": 3}, int, what="model")
    line = r"^model 'someones:f': got an unexpected .* 'depth'; it takes \(width\)$"
    with pytest.raises(InputError, match=line):
        find_factory("someones:f", {}, what="model")(3, depth=3)


def test_a_function_of_c_that_does_not_say_what_it_takes():
    assert call_factory("builtins:dict", {}, {"a": 1}, dict, what="model") == {"a": 1}
    with pytest.raises(InputError, match="model 'builtins:int': TypeError: 'a' is an invalid"):
        call_factory("builtins:int", {}, {"a": 1}, int, what="model")


@pytest.mark.parametrize(
    "error", [InputError("no"), Stopped("stopped"), KeyboardInterrupt(), GeneratorExit()]
)
def test_what_is_raised_on_purpose_stays(error):
    with pytest.raises(type(error)) as caught, named("model 'a:b'", "a:b"):
        raise error
    assert caught.value is error
