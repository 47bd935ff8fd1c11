"""The task decorator, and the tasks that this installation knows.

A declaration is checked when its module is imported: what cannot be is a `BadTask` that names file and line, never a
surprise at run time.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NoReturn, ParamSpec, TypeVar

from apps.broker.engine import parse_address
from apps.jobs.errors import BadTask, UnknownTask
from apps.jobs.options import DEFAULT_QUEUE as DEFAULT_QUEUE
from apps.jobs.options import BadOption, Options
from msgweb.errors import BadArguments, BadDestination, LimitExceeded

if TYPE_CHECKING:
    from apps.jobs.asking import Ask
    from apps.jobs.context import JobContext
    from apps.jobs.models import Job

P = ParamSpec("P")
R = TypeVar("R")

NAME_PATTERN = re.compile(r"^[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*$")
NAME_LIMIT = 200
ARGUMENTS_LIMIT = 1024 * 1024  # bytes of a job's arguments as JSON


@dataclass(frozen=True, slots=True)
class Parameter:
    """A keyword argument of a task."""

    name: str
    required: bool


@dataclass(frozen=True, slots=True, eq=False)
class Task(Generic[P, R]):
    """Something that can be asked for as a job. Calling it runs it here and now, with the context given.

    Attributes:
        function: None for work that is done outside: by any STOMP consumer of the queue.
        queue: the queue, in the job's namespace, that its messages wait in.
    """

    name: str
    queue: str
    options: Options
    parameters: tuple[Parameter, ...]
    where: str
    function: "Callable[Concatenate[JobContext, P], R] | None"
    known: frozenset[str] = field(init=False)
    required: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "known", frozenset(parameter.name for parameter in self.parameters))
        object.__setattr__(self, "required", frozenset(p.name for p in self.parameters if p.required))

    @property
    def max_attempts(self) -> int:
        """How often it may fail of its own before the job has failed."""
        return self.options.max_attempts

    def __call__(self, context: "JobContext", *args: P.args, **kwargs: P.kwargs) -> R:
        if self.function is None:
            raise BadTask(f"task {self.name} is done outside: it has no function to call")
        return self.function(context, *args, **kwargs)

    def enqueue(self, *, namespace: str, ask: "Ask | None" = None, **arguments: Any) -> "Job":
        """Ask for it, in the caller's own transaction.

        Args:
            ask: how, if not as usual: a delay, a priority, after which other jobs, ...

        Raises:
            BadArguments: an argument is missing, unknown or no JSON value.
            NotFound: there is no such namespace.
        """
        from apps.jobs.asking import Ask
        from apps.jobs.submit import ask_for

        return ask_for(self, namespace, arguments, ask or Ask())

    def completed(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that a person or a setting gave, as the task's jobs have them."""
        return dict(arguments)

    def named(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments by the names that the options' keys speak of."""
        return arguments

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Whether the task can be asked for with these arguments.

        Raises:
            BadArguments: an argument is missing or unknown, or no JSON value.
            LimitExceeded: they take more than 1 MiB.
        """
        self.checked(arguments)

    def checked(self, arguments: Mapping[str, Any]) -> str:
        """The arguments as JSON.

        Raises:
            BadArguments, LimitExceeded: as `check`.
        """
        self.check_names(arguments)
        try:
            text = to_json(arguments)
        except ValueError as error:
            raise BadArguments(f"the arguments of task {self.name} are no JSON: {error}") from error
        if len(text) > ARGUMENTS_LIMIT:
            raise LimitExceeded(f"a job's arguments take at most {ARGUMENTS_LIMIT} bytes, not {len(text)}")
        return text

    def check_names(self, arguments: Mapping[str, Any]) -> None:
        """The same of arguments that were JSON until now.

        Raises:
            BadArguments: an argument is missing or unknown.
        """
        names = arguments.keys()
        if not (names <= self.known and self.required <= names):
            self._refuse(arguments)

    def _refuse(self, arguments: Mapping[str, Any]) -> NoReturn:
        known = {parameter.name for parameter in self.parameters}
        unknown = [name for name in arguments if name not in known]
        if unknown:
            raise BadArguments(
                f"task {self.name} has no argument {', '.join(map(repr, unknown))}; it has "
                + (", ".join(sorted(known)) or "none")
            )
        missing = [p.name for p in self.parameters if p.required and p.name not in arguments]
        raise BadArguments(f"task {self.name} needs the argument {', '.join(map(repr, missing))}")


#: It notes no containers on the way: what holds itself is a RecursionError.
_dump = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def to_json(value: object) -> str:
    """JSON that Postgres can keep as jsonb: no NaN, no lone surrogates, no NUL in texts.

    Raises:
        ValueError: the value is no such JSON; the message says why.
    """
    try:
        text = _dump(value)
        if not text.isascii():
            text.encode()
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    except UnicodeEncodeError as error:
        raise ValueError("a text holds half a surrogate pair") from error
    if "\\u0000" in text and _holds_nul(value):
        raise ValueError("a text holds NUL")
    return text


def _holds_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, Mapping):
        return any(_holds_nul(key) or _holds_nul(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return any(map(_holds_nul, value))
    return False


_tasks: dict[str, Task[..., Any]] = {}


def find(name: str) -> Task[..., Any]:
    """The task of that name.

    Raises:
        UnknownTask: this installation has none.
    """
    try:
        return _tasks[name]
    except KeyError:
        raise UnknownTask(f"there is no task {name!r}") from None


def load(name: str) -> Task[..., Any]:
    """The task of a job that was asked for: `find`, or a Django Task by its path.

    Raises:
        UnknownTask: this installation has none.
    """
    if name not in _tasks:
        from apps.jobs import django_tasks

        return django_tasks.load(name)
    return _tasks[name]


def pause_after(name: str, failures: int) -> float | None:
    """Seconds before the next attempt of a job whose process ended; None: nothing is known of its task."""
    try:
        return load(name).options.pause(failures)
    except UnknownTask:
        return None


def all_tasks() -> list[Task[..., Any]]:
    """Every task, by name."""
    return [_tasks[name] for name in sorted(_tasks)]


def queues() -> list[str]:
    """The queues of all tasks with a function, and of Django's Tasks: what a worker serves unless told otherwise."""
    from apps.jobs import django_tasks

    return sorted({known.queue for known in _tasks.values() if known.function is not None} | django_tasks.queues())


def task(
    *, name: str, queue: str = DEFAULT_QUEUE, **options: Any
) -> "Callable[[Callable[Concatenate[JobContext, P], R]], Task[P, R]]":
    """Declare a function as a task: `def fn(context, *, keyword, arguments) -> JSON value`.

    Args:
        name: unique in the installation, such as `firebrand.clone_brand`; what STOMP and REST clients ask for.
        queue: the queue, in the namespace of each job, that it waits in.
        options: see `apps.jobs.options.Options`: max_attempts, backoff, retry_on, give_up_on, timeout, unique,
            concurrency, rate, priority, expires, on_worker_death, max_deaths.

    Raises:
        BadTask: at import, if the declaration cannot be.
    """

    def declare(function: "Callable[Concatenate[JobContext, P], R]") -> Task[P, R]:
        where = place_of(function)
        declared: Task[P, R] = Task(
            name, queue, make_options(where, name, options), _parameters(function, where), where, function
        )
        _register(declared)
        return declared

    return declare


def place_of(function: Callable[..., Any]) -> str:
    """File and line of a function."""
    code = inspect.unwrap(function).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def make_options(where: str, name: str, given: Mapping[str, Any]) -> Options:
    """The options of a task that is declared there.

    Raises:
        BadTask: there is no such option, or its value cannot be.
    """
    try:
        return Options(**given)
    except BadOption as error:
        raise BadTask(f"{where}: an option of task {name!r} cannot be: {error}") from None
    except TypeError:
        unknown = sorted(set(given) - {known.name for known in fields(Options)})
        raise BadTask(
            f"{where}: task {name!r} is given {', '.join(unknown)}; the options are "
            + ", ".join(known.name for known in fields(Options))
        ) from None


def external_task(
    *, name: str, queue: str, required: tuple[str, ...] = (), optional: tuple[str, ...] = (), **options: Any
) -> Task[..., Any]:
    """Declare work that any STOMP consumer of the queue does, in whatever language.

    Such a worker receives the arguments as JSON with the headers `job-id`, `task` and `reply-to:/job/<id>`, and says
    there how it goes (`job-event`: progress, log, result, error).

    Raises:
        BadTask: at import, if the declaration cannot be.
    """
    caller = inspect.stack()[1]
    parameters = [Parameter(argument, True) for argument in required]
    parameters += [Parameter(argument, False) for argument in optional]
    where = f"{caller.filename}:{caller.lineno}"
    declared: Task[..., Any] = Task(name, queue, make_options(where, name, options), tuple(parameters), where, None)
    _register(declared)
    return declared


def _register(declared: Task[..., Any]) -> None:
    where = declared.where
    if not NAME_PATTERN.match(declared.name) or len(declared.name) > NAME_LIMIT:
        raise BadTask(f"{where}: {declared.name!r} is no name for a task: letters, digits, _ and -, joined by dots")
    other = _tasks.get(declared.name)
    if other is not None and other.where != where:  # the same place: its module was loaded twice
        raise BadTask(f"{where}: task {declared.name!r} is declared already, at {other.where}")
    try:
        if parse_address("", declared.queue).name != declared.queue:
            raise BadDestination(f"give the bare name of a queue, not {declared.queue!r}")
    except BadDestination as error:
        raise BadTask(f"{where}: the queue of task {declared.name!r} cannot be: {error}") from error
    try:
        declared.options.check_names({parameter.name for parameter in declared.parameters})
    except BadOption as error:
        raise BadTask(f"{where}: an option of task {declared.name!r} cannot be: {error}") from None
    _tasks[declared.name] = declared


def _parameters(function: Callable[..., Any], where: str) -> tuple[Parameter, ...]:
    given = list(inspect.signature(function).parameters.values())
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY
    if not given or given[0].kind not in positional:
        raise BadTask(f"{where}: the first parameter of a task is its context")
    for parameter in given[1:]:
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            raise BadTask(
                f"{where}: a task's arguments are keyword-only, so that each can be checked by its name; "
                f"put a * before {parameter.name!r}"
            )
    return tuple(Parameter(p.name, p.default is inspect.Parameter.empty) for p in given[1:])
