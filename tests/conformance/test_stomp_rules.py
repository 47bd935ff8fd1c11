"""docs/reference/stomp.md against the tests: each rule and each demand of a client has a test that names it."""

import ast
import re

from msgweb.home import REPOSITORY

RULE = re.compile(r"\| ([A-Z]\d+) \| ([MSm-]) \| .+ \|")
DEMAND = re.compile(r"\| (\d+) \| (\S+) \| .+ \|")
#: Ids of the specification's rules in a test's name; what stands after `dialect` names a row of the dialects.
IDS = re.compile(r"(?<=_)([flcbsunatmrexd]\d+)(?=_)")
CLIENTS = re.compile(r"client((?:_\d+)+)_(.+)")

text = (REPOSITORY / "docs/reference/stomp.md").read_text()


def names() -> list[str]:
    """The names of all tests that speak of STOMP."""
    return [
        node.name.removeprefix("test")
        for path in (REPOSITORY / "tests").glob("*/test_stomp_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def test_each_rule_of_the_specification_has_a_test_that_names_it() -> None:
    rules = {match[1].lower() for match in map(RULE.fullmatch, text.splitlines()) if match}
    assert len(rules) > 50
    named = {
        identifier
        for name in names()
        if "_dialect" not in name
        for identifier in IDS.findall(name.partition("_client_")[0] + "_")
    }
    assert not rules - named


def test_each_demand_of_a_client_has_a_test_that_names_the_client() -> None:
    demands = {int(match[1]): match[2] for match in map(DEMAND.fullmatch, text.splitlines()) if match}
    assert set(demands) == set(range(1, 13))
    named = {
        (int(number), match[2])
        for name in names()
        if (match := CLIENTS.search(name))
        for number in match[1].strip("_").split("_")
    }
    assert {number for number, _ in named} <= set(demands)
    for number, client in demands.items():
        word = re.sub(r"\W", "_", client)
        assert any(number == other and word in rest for other, rest in named), f"{number}, {client}"
