"""The digest of the code that a script runs."""

import textwrap

import pytest
from neurondynamics.study.digest import code_digest

MODULES = {
    "script.py": """
        from neurondynamics.first import one
        from neurondynamics.runtime import start_log
    """,
    "neurondynamics/__init__.py": "",
    "neurondynamics/first.py": '''
        """What it is for."""
        from neurondynamics.deep import second

        def one():
            """One."""
            return second.two() + 1  # plus one
    ''',
    "neurondynamics/deep/__init__.py": "",
    "neurondynamics/deep/second.py": """
        import os
        import neurondynamics.deep.third

        def two():
            return neurondynamics.deep.third.THREE
    """,
    "neurondynamics/deep/third.py": """
        from neurondynamics import first

        THREE = 3
    """,
    "neurondynamics/unrelated.py": "X = 1",
    "neurondynamics/runtime.py": "def start_log(path): ...",
}


@pytest.fixture
def house(tmp_path):
    for name, content in MODULES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(content))
    return tmp_path


def replace(path, old, new):
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("neurondynamics/first.py", "+ 1", "+ 2"),
        ("neurondynamics/deep/second.py", "THREE", "FOUR"),
        ("neurondynamics/deep/third.py", "THREE = 3", "THREE = 3.0"),  # two imports away
        ("neurondynamics/deep/third.py", "import first", "import unrelated"),
        ("neurondynamics/first.py", "def one()", "def one(x=None)"),
    ],
)
def test_code_anywhere_below_changes_the_digest(house, module, old, new):
    before = code_digest("script", house)
    replace(house / module, old, new)
    assert code_digest("script", house) != before


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("neurondynamics/first.py", "# plus one", "# and one more"),
        ("neurondynamics/first.py", "What it is for.", "Something else."),
        ("neurondynamics/first.py", '"""One."""\n', '"""One,\n\n    explained."""\n'),
        ("neurondynamics/first.py", "second.two() + 1", "(second.two()\n        + 1)"),
        ("neurondynamics/deep/third.py", "THREE = 3", "\n\n# three\nTHREE  =  3"),
        ("neurondynamics/unrelated.py", "X = 1", "X = 2"),
    ],
)
def test_what_no_result_depends_on_does_not(house, module, old, new):
    before = code_digest("script", house)
    replace(house / module, old, new)
    assert code_digest("script", house) == before


def test_what_is_around_the_work_of_scripts_does_not_count_either(house):
    before = code_digest("script", house)
    replace(house / "neurondynamics" / "runtime.py", "...", "print(path)")
    assert code_digest("script", house) == before


def test_a_docstring_that_comes_or_goes_does_not_count(house):
    before = code_digest("script", house)
    replace(house / "neurondynamics/first.py", '    """One."""\n', "")
    replace(house / "neurondynamics/deep/second.py", "def two():", 'def two():\n    """Two."""')
    assert code_digest("script", house) == before


def test_a_text_that_is_no_docstring_counts(house):
    path = house / "neurondynamics/deep/third.py"
    path.write_text(path.read_text() + 'NAME = """a name"""\n')
    before = code_digest("script", house)
    replace(path, "a name", "another")
    assert code_digest("script", house) != before


def test_code_of_the_script_itself_changes_the_digest(house):
    before = code_digest("script", house)
    (house / "script.py").write_text((house / "script.py").read_text() + "\nprint(1)\n")
    assert code_digest("script", house) != before


def test_the_digest_does_not_depend_on_where_the_code_lies(house, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    house.rename(elsewhere)
    first = code_digest("script", elsewhere)
    elsewhere.rename(house)
    assert code_digest("script", house) == first
