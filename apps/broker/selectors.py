"""Selectors: SQL-92 conditional expressions over a message's headers, as JMS 2.0 (section 3.8.1) defines them.

A header is text. Beside a number it counts as a number if it is written as one, beside TRUE or FALSE as that; otherwise
the comparison is unknown. Unknown follows SQL's three-valued logic, and a message is chosen by true alone.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import add, eq, ge, gt, le, lt, mul, ne, sub, truediv
from typing import Any

from lark import Lark, Token, Transformer
from lark.exceptions import LarkError, UnexpectedCharacters, UnexpectedEOF, UnexpectedToken, VisitError

from msgweb.errors import BadRequest

LENGTH_LIMIT = 4_096  # characters
DEPTH_LIMIT = 50  # parentheses within one another, signs and NOTs in a row
DIGITS_LIMIT = 40  # of a number

Headers = Mapping[str, str]
Value = str | float | bool | None
#: None is unknown.
Evaluate = Callable[[Headers], Any]

_GRAMMAR = r"""
?start: or
?or: and ("OR"i and)*
?and: not ("AND"i not)*
?not: "NOT"i not -> negation
    | condition
?condition: sum
    | sum COMPARISON sum -> comparison
    | sum "BETWEEN"i sum "AND"i sum -> between
    | sum "NOT"i "BETWEEN"i sum "AND"i sum -> not_between
    | sum "IN"i "(" string ("," string)* ")" -> among
    | sum "NOT"i "IN"i "(" string ("," string)* ")" -> not_among
    | sum "LIKE"i string ["ESCAPE"i string] -> like
    | sum "NOT"i "LIKE"i string ["ESCAPE"i string] -> not_like
    | sum "IS"i "NULL"i -> missing
    | sum "IS"i "NOT"i "NULL"i -> present
?sum: product (SIGN product)* -> arithmetic
?product: factor (TIMES factor)* -> arithmetic
?factor: SIGN factor -> signed
    | atom
?atom: NUMBER -> number
    | string -> literal
    | "TRUE"i -> true
    | "FALSE"i -> false
    | name -> header
    | "(" or ")"
name: NAME | QUOTED
string: STRING
COMPARISON: "<>" | "<=" | ">=" | "=" | "<" | ">"
SIGN: "+" | "-"
TIMES: "*" | "/"
NUMBER: /(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?/
STRING: /'([^']|'')*'/
QUOTED: /"[^"]+"/
NAME: /(?!(?i:and|or|not|between|in|like|escape|is|null|true|false)\b)[^\W\d][\w$.]*/
%ignore /[ \t\r\n]+/
"""
_NUMBER = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,3})?\Z", re.ASCII)
_PERSISTENCE = {"true": "PERSISTENT", "false": "NON_PERSISTENT"}
_ALIASES = {
    "JMSPriority": "priority",
    "JMSMessageID": "message-id",
    "JMSCorrelationID": "correlation-id",
    "JMSType": "type",
    "JMSTimestamp": "timestamp",
    "JMSReplyTo": "reply-to",
    "JMSDestination": "destination",
}
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {"=": eq, "<>": ne, "<": lt, "<=": le, ">": gt, ">=": ge}
_OPERATIONS: dict[str, Callable[[float, float], float]] = {"+": add, "-": sub, "*": mul, "/": truediv}


class BadSelector(BadRequest):
    """Not a selector, or one that is too long or too deep."""

    code = "bad_selector"


class Selector:
    """A parsed selector.

    Attributes:
        text: as it was written.
        names: the headers that it asks for.
    """

    __slots__ = ("_evaluate", "names", "text")

    def __init__(self, text: str, names: frozenset[str], evaluate: Evaluate) -> None:
        self.text = text
        self.names = names
        self._evaluate = evaluate

    def matches(self, headers: Headers) -> bool:
        """Whether a message with these headers is chosen."""
        return _truth(self._evaluate(headers)) is True


@lru_cache(maxsize=1024)
def parse(text: str) -> Selector:
    """Read a selector.

    Raises:
        BadSelector: it is empty or none; the text says where and what was expected.
    """
    if len(text) > LENGTH_LIMIT:
        raise BadSelector(f"a selector has at most {LENGTH_LIMIT} characters, not {len(text)}")
    _check_depth(text)
    builder = _Builder()
    try:
        evaluate = builder.transform(_parser().parse(text))
    except VisitError as error:
        if isinstance(error.orig_exc, BadSelector):
            raise error.orig_exc from None
        raise
    except UnexpectedEOF:
        raise BadSelector("the selector ends too early") from None
    except UnexpectedToken as error:
        if error.token.type == "$END":
            raise BadSelector("the selector ends too early") from None
        raise BadSelector(_where(text, error.pos_in_stream or 0)) from None
    except UnexpectedCharacters as error:
        raise BadSelector(_where(text, error.pos_in_stream or 0)) from None
    except LarkError:
        raise BadSelector("the selector cannot be read") from None
    return Selector(text, frozenset(builder.names), evaluate)


def _where(text: str, place: int) -> str:
    return f"the selector cannot be read from character {place + 1} on: {text[place : place + 40]!r}"


def _check_depth(text: str) -> None:
    """Refuse what would go deeper than a parser's stack is meant for."""
    depth = row = 0
    outside = re.sub(r"'[^']*'?", "", text)
    for piece in re.findall(r"[()]|[+-]|(?i:\bnot\b)|\S", outside):
        if piece == "(":
            depth += 1
        elif piece == ")":
            depth -= 1
        row = row + 1 if piece in "+-" or piece.lower() == "not" else 0
        if depth > DEPTH_LIMIT or row > DEPTH_LIMIT:
            raise BadSelector(f"a selector goes at most {DEPTH_LIMIT} levels deep")


@lru_cache(maxsize=1)
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", maybe_placeholders=True)


class _Builder(Transformer[Token, Evaluate]):
    """From the parse tree to nested functions."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    # -- values

    def name(self, items: list[Token]) -> str:
        text = str(items[0])
        return text[1:-1] if text.startswith('"') else text

    def string(self, items: list[Token]) -> str:
        return str(items[0])[1:-1].replace("''", "'")

    def header(self, items: list[Any]) -> Evaluate:
        return self._get(items[0])

    def _get(self, name: str) -> Evaluate:
        if name == "JMSDeliveryMode":
            self.names.add("persistent")
            return lambda headers: _PERSISTENCE.get(headers.get("persistent", "false"))
        if name == "JMSXDeliveryCount":
            name = "delivery-count"
        name = _ALIASES.get(name, name)
        self.names.add(name)
        return lambda headers: headers.get(name)

    def literal(self, items: list[Any]) -> Evaluate:
        value = _Text(items[0])
        return lambda headers: value

    def number(self, items: list[Token]) -> Evaluate:
        if sum(character.isdigit() for character in items[0]) > DIGITS_LIMIT:
            raise BadSelector(f"a number has at most {DIGITS_LIMIT} digits")
        value = float(items[0])
        return lambda headers: value

    def true(self, items: list[Token]) -> Evaluate:
        return lambda headers: True

    def false(self, items: list[Token]) -> Evaluate:
        return lambda headers: False

    def arithmetic(self, items: list[Any]) -> Evaluate:
        result: Evaluate = items[0]
        for operator, operand in zip(items[1::2], items[2::2], strict=True):
            result = _calculate(_OPERATIONS[str(operator)], result, operand)
        return result

    def signed(self, items: list[Any]) -> Evaluate:
        sign = -1.0 if str(items[0]) == "-" else 1.0
        return _calculate(mul, lambda headers: sign, items[1])

    # -- conditions

    def comparison(self, items: list[Any]) -> Evaluate:
        return _compare(str(items[1]), items[0], items[2])

    def between(self, items: list[Any]) -> Evaluate:
        return _all([_compare(">=", items[0], items[1]), _compare("<=", items[0], items[2])])

    def not_between(self, items: list[Any]) -> Evaluate:
        return _opposite(self.between(items))

    def among(self, items: list[Any]) -> Evaluate:
        get, values = items[0], frozenset(items[1:])

        def evaluate(headers: Headers) -> bool | None:
            value = get(headers)
            return value in values if isinstance(value, str) else None

        return evaluate

    def not_among(self, items: list[Any]) -> Evaluate:
        return _opposite(self.among(items))

    def like(self, items: list[Any]) -> Evaluate:
        get, matches = items[0], _like(items[1], items[2])

        def evaluate(headers: Headers) -> bool | None:
            value = get(headers)
            return matches(value) if isinstance(value, str) else None

        return evaluate

    def not_like(self, items: list[Any]) -> Evaluate:
        return _opposite(self.like(items))

    def missing(self, items: list[Any]) -> Evaluate:
        get = items[0]
        return lambda headers: get(headers) is None

    def present(self, items: list[Any]) -> Evaluate:
        get = items[0]
        return lambda headers: get(headers) is not None

    def negation(self, items: list[Any]) -> Evaluate:
        return _opposite(items[0])

    def __default__(self, data: str, children: list[Any], meta: Any) -> Evaluate:
        if data == "and":
            return _all(children)
        if data == "or":
            return _opposite(_all([_opposite(child) for child in children]))
        raise AssertionError(f"the grammar's {data} has no meaning")


class _Text(str):
    """A string literal: never a number, whatever it looks like."""

    __slots__ = ()


def _truth(value: Value) -> bool | None:
    """A condition's value: a header that is written true or false is that."""
    if isinstance(value, bool) or value is None:
        return value
    return {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else None


def _opposite(operand: Evaluate) -> Evaluate:
    def evaluate(headers: Headers) -> bool | None:
        value = _truth(operand(headers))
        return None if value is None else not value

    return evaluate


def _all(operands: list[Evaluate]) -> Evaluate:
    if len(operands) == 1:
        return operands[0]

    def evaluate(headers: Headers) -> bool | None:
        result: bool | None = True
        for operand in operands:
            value = _truth(operand(headers))
            if value is False:
                return False
            if value is None:
                result = None
        return result

    return evaluate


def _as_number(value: Value) -> float | None:
    if isinstance(value, bool) or value is None or isinstance(value, _Text):
        return None
    if isinstance(value, float):
        return value
    return float(value) if _NUMBER.match(value) else None


def _calculate(operation: Callable[[float, float], float], left: Evaluate, right: Evaluate) -> Evaluate:
    def evaluate(headers: Headers) -> float | None:
        one, other = _as_number(left(headers)), _as_number(right(headers))
        if one is None or other is None:
            return None
        try:
            result = operation(one, other)
        except (ZeroDivisionError, OverflowError):
            return None
        return result if result - result == 0.0 else None  # neither infinite nor no number

    return evaluate


def _compare(operator: str, left: Evaluate, right: Evaluate) -> Evaluate:
    compare = _COMPARISONS[operator]
    equality = operator in ("=", "<>")

    def evaluate(headers: Headers) -> bool | None:
        one, other = left(headers), right(headers)
        if one is None or other is None:
            return None
        if isinstance(one, bool) or isinstance(other, bool):
            first, second = _truth(one), _truth(other)
            return compare(first, second) if equality and first is not None and second is not None else None
        if not (isinstance(one, _Text) or isinstance(other, _Text)):
            number, second_number = _as_number(one), _as_number(other)
            if number is not None and second_number is not None:
                return compare(number, second_number)
            if isinstance(one, float) or isinstance(other, float):
                return None
        elif isinstance(one, float) or isinstance(other, float):
            return None
        return compare(str(one), str(other)) if equality else None

    return evaluate


def _like(pattern: str, escape: str | None) -> Callable[[str], bool]:
    """A matcher for LIKE: `%` any text, `_` one character. Once through the text for each run between two `%`."""
    if escape is not None and len(escape) != 1:
        raise BadSelector("ESCAPE takes one character")
    runs: list[list[str | None]] = [[]]
    escaped = False
    for character in pattern:
        if escaped:
            runs[-1].append(character)
            escaped = False
        elif character == escape:
            escaped = True
        elif character == "%":
            runs.append([])
        else:
            runs[-1].append(None if character == "_" else character)
    if escaped:
        raise BadSelector("a LIKE pattern ends with its escape character")
    first, *rest = ["".join("." if one is None else re.escape(one) for one in run) for run in runs]
    if not rest:
        whole = re.compile(first, re.DOTALL)
        return lambda text: whole.fullmatch(text) is not None
    begin = re.compile(first, re.DOTALL)
    middle = [re.compile(run, re.DOTALL) for run in rest[:-1] if run]
    end = re.compile(rest[-1], re.DOTALL)
    end_length = len(runs[-1])

    def matches(text: str) -> bool:
        found = begin.match(text)
        for run in middle:
            if found is None:
                return False
            found = run.search(text, found.end())
        if found is None or len(text) - found.end() < end_length:
            return False
        return end.fullmatch(text, len(text) - end_length) is not None

    return matches
