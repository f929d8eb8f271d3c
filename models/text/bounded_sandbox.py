"""Jinja's immutable sandbox with an allowance: a template that works too much is refused.

A count and not a clock: it works in every thread, and the same template and messages always end
the same way. Work is counted in units of about a microsecond. Time and memory both follow it,
because no value exists that was not paid for in proportion to its size. What could grow out of
proportion (`'x' * 10**9`, a format's width, a list of the same list twice, forty times over) is
reckoned up before it is done. Knows nothing of chats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from string import Formatter
from types import GeneratorType
from typing import Any, Final, cast

import jinja2
from jinja2.ext import loopcontrols
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, _PassArg, pass_context

from models.text.template_costs import CHARACTERS_PER_UNIT, COPY, PAY, READ, SEARCH, CostPass

ALLOWANCE: Final = 4_000_000
MAX_TEMPLATE_CHARACTERS: Final = 1024**2
MAX_WIDTH: Final = 10_000  # of padding and indentation
_MAX_INTEGER_BITS = 4096
_UNITS_PER_ITEM = 4  # a reference and, mostly, a small object


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What builtin values can be asked for. The rest grows (expandtabs, to_bytes) or has no use.
_METHODS: Final[Mapping[type, frozenset[str]]] = {
    str: _words(
        "capitalize casefold center count endswith find format format_map index isalnum isalpha "
        "isascii isdecimal isdigit islower isnumeric isprintable isspace istitle isupper join "
        "ljust lower lstrip partition removeprefix removesuffix replace rfind rindex rjust "
        "rpartition rsplit rstrip split splitlines startswith strip swapcase title upper zfill"
    ),
    dict: _words("get items keys values"),
    list: _words("count index"),
    tuple: _words("count index"),
    int: frozenset(),
    float: frozenset(),
    range: frozenset(),
}
_FILTERS: Final = _words(
    "abs attr capitalize count d default dictsort e escape first float format groupby indent int "
    "items join last length list lower map max min reject rejectattr replace reverse safe select "
    "selectattr sort string title tojson trim unique upper wordcount"
)
# These look at their value without reading it.
_INSTANT: Final = _words("attr count d default first length safe")
_READING_TESTS: Final = _words(
    "!= < <= == > >= eq equalto ge greaterthan gt in le lessthan lower lt ne upper"
)
_SIZING_ARGUMENTS = ("old", "new", "d", "width")  # of replace, join and indent, in their order
_PADDING = {"center", "ljust", "rjust", "zfill"}
_FORMATTER = Formatter()
_PERCENT_FIELD = re.compile(r"%(?:\([^()%]*\))?([-+ #0-9.*]*)")
_ODD_PERCENT_NAME = re.compile(r"%\([^)%]*[(%]")  # which the pattern above would not follow


class TooMuchWork(jinja2.TemplateError):
    """A template has used up its allowance, or would with its next step."""

    def __init__(self) -> None:
        super().__init__("it does too much work")


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """Compiles templates, and is copied for each rendering; the copy holds what is left of it."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols], finalize=_written
        )
        self._left = ALLOWANCE
        known: Mapping[str, Callable[..., Any]] = self.filters
        self.filters = {name: paying(name, known[name]) for name in _FILTERS}
        self.filters |= {PAY: _pay, READ: _read, COPY: _copied, SEARCH: _searched}
        for name in _READING_TESTS:
            self.tests[name] = paying(name, cast(Any, self.tests[name]))
        self.globals["namespace"] = _QuietNamespace
        del self.globals["lipsum"]

    def compiled(self, source: str) -> Callable[[], jinja2.Template]:
        """Compile a template; each call of the result gives it anew, with a whole allowance.

        Raises jinja2.TemplateError.
        """
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise jinja2.TemplateError(f"it has more than {MAX_TEMPLATE_CHARACTERS} characters")
        try:
            tree = self.parse(source)
            CostPass().visit(tree)
            tree.set_environment(self)
            code = self.compile(tree)
        except (RecursionError, MemoryError, SyntaxError, ValueError) as exc:
            # Nested too deeply for Jinja or for Python, or a number of thousands of digits.
            raise jinja2.TemplateError(f"it cannot be compiled: {exc}") from exc
        return lambda: jinja2.Template.from_code(copy(self), code, self.globals)

    def pay(self, units: int) -> None:
        """Take from what is left; raises TooMuchWork when it is not enough."""
        self._left -= units
        if self._left < 0:
            raise TooMuchWork

    def pay_characters(self, count: int) -> None:
        """For a text of `count` characters."""
        self.pay(1 + count // CHARACTERS_PER_UNIT)

    def pay_reading(self, value: object) -> None:
        """For all that is in a value, as often as it is in there; stops when that is too much."""
        if isinstance(value, str):
            self.pay_characters(len(value))
            return
        waiting = [value]
        while waiting:
            each = waiting.pop()
            self.pay_copying(each)
            if isinstance(each, Mapping):
                waiting += each.keys()
                waiting += each.values()
            elif isinstance(each, Collection) and not isinstance(each, str | range):
                waiting += each

    def pay_copying(self, value: object) -> None:
        """For a value without what its items hold."""
        if isinstance(value, str):
            self.pay_characters(len(value))
        elif isinstance(value, int):
            self.pay(1 + value.bit_length() // _MAX_INTEGER_BITS)
        elif isinstance(value, Collection):
            self.pay(1 + len(value) * _UNITS_PER_ITEM)
        else:
            self.pay(1)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Of builtin values only what is known to take little."""
        for kind, names in _METHODS.items():
            if isinstance(obj, kind):
                return attr in names
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic, paid for before it is done."""
        if operator == "%" and isinstance(left, str):
            self._pay_formatting(left, _percent_specs(left), right)
        elif isinstance(left, int) and isinstance(right, int):
            self._check_integers(operator, left, right)
        elif operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(times, int) and isinstance(value, Collection):
                    self.pay(len(value) * max(times, 0))  # whatever it holds
        else:
            self.pay_copying(left)
            self.pay_copying(right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call of a method, macro or function, paid for with its arguments and its result."""
        if isinstance(__obj, Macro):
            __self.pay(1 + len(args) + len(kwargs))  # its body pays for itself
            return super().call(__context, __obj, *args, **kwargs)
        __self.pay_reading([*args, *kwargs.values()])
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str | list | tuple):
            __self._pay_method(owner, __obj.__name__, args)
        result = super().call(__context, __obj, *args, **kwargs)
        __self.pay_copying(result)
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`format` of a text, which pays for what it writes before it does."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def formatted(*args: Any, **kwargs: Any) -> str:
            pattern: str = value.__self__
            specs = [
                spec or "" for _, name, spec, _ in _FORMATTER.parse(pattern) if name is not None
            ]
            self._pay_formatting(pattern, specs, [*args, *kwargs.values()])
            return wrapped(*args, **kwargs)

        return formatted

    def pay_filter(
        self, name: str, value: Any, args: tuple[Any, ...], values: Sequence[Any]
    ) -> None:
        """For what a filter makes beyond the values that it is given."""
        if name == "replace" and len(args) >= 2:
            self._pay_method(str(value), name, tuple(map(str, args)))
        elif name == "join" and args and isinstance(value, Collection):
            self.pay_characters(len(value) * len(str(args[0])))
        elif name == "format":
            self._pay_formatting(str(value), _percent_specs(str(value)), values)
        elif name == "indent":
            width = args[0] if args else 4
            self.pay_characters(_width(width) * (1 + len(str(value).splitlines())))

    def _pay_method(self, owner: Any, name: str, args: tuple[Any, ...]) -> None:
        if name not in {"startswith", "endswith"}:
            self.pay_reading(owner)
        if name in _PADDING and args:
            self.pay_characters(_width(args[0]))
        elif name == "replace" and len(args) >= 2:
            self.pay_characters(owner.count(args[0]) * len(args[1]))
        elif name == "join" and args and isinstance(args[0], Collection):
            self.pay_characters(len(args[0]) * len(owner))

    def _pay_formatting(self, pattern: str, specs: Sequence[str], values: Any) -> None:
        """For every field as if all values were written there, and for its padding."""
        widths = [int(digits) for spec in specs for digits in re.findall(r"\d+", spec)]
        if max(widths, default=0) > MAX_WIDTH or any("{" in spec for spec in specs):
            raise TooMuchWork
        before = self._left
        self.pay_reading(values)
        self.pay(len(specs) * (before - self._left))
        self.pay_characters(len(pattern) + sum(widths))

    def _check_integers(self, operator: str, left: int, right: int) -> None:
        bits = left.bit_length()
        grown = {"**": bits * max(right, 1), "*": bits + right.bit_length()}.get(operator, bits)
        if max(grown, right.bit_length()) > _MAX_INTEGER_BITS:
            raise TooMuchWork
        self.pay(1)


class _QuietNamespace(Namespace):
    """What its attributes hold may be changed later, and then could be of any size as text."""

    def __repr__(self) -> str:
        return "<Namespace>"


def _percent_specs(pattern: str) -> list[str]:
    """Flags, width and precision of each field of a `%` pattern."""
    specs = _PERCENT_FIELD.findall(pattern)
    if _ODD_PERCENT_NAME.search(pattern) or any("*" in spec for spec in specs):
        raise TooMuchWork
    return specs


def _width(value: object) -> int:
    """Of padding, as a number or as the text itself."""
    width = len(value) if isinstance(value, str) else value
    if not isinstance(width, int) or width > MAX_WIDTH:
        raise TooMuchWork
    return max(width, 0)


def paying(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test of Jinja's that pays for its values and for its result."""
    passed = _PassArg.from_obj(function)
    by_kind: dict[_PassArg, Callable[[Context], object]] = {
        _PassArg.context: lambda context: context,
        _PassArg.eval_context: lambda context: context.eval_ctx,
        _PassArg.environment: lambda context: context.environment,
    }

    @pass_context
    def paying_function(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        sandbox = _sandbox(context)
        if name not in _INSTANT:
            sandbox.pay_reading([value, *args, *kwargs.values()])
            ordered = (kwargs[each] for each in _SIZING_ARGUMENTS if each in kwargs)
            sandbox.pay_filter(name, value, (*args, *ordered), [*args, *kwargs.values()])
        if passed is not None:
            value, args = by_kind[passed](context), (value, *args)
        result = function(value, *args, **kwargs)
        if isinstance(result, GeneratorType):
            result = list(result)  # what is made later, nobody would pay for
        sandbox.pay_copying(result)
        return result

    return paying_function


def _sandbox(context: Context) -> BoundedSandbox:
    assert isinstance(context.environment, BoundedSandbox)
    return context.environment


@pass_context
def _written(context: Context, value: Any) -> Any:
    """Every expression that is written passes here before it becomes text."""
    _sandbox(context).pay_reading(value)
    return value


@pass_context
def _pay(context: Context, value: Any, units: int) -> Any:
    _sandbox(context).pay(units)
    return value


@pass_context
def _read(context: Context, value: Any) -> Any:
    _sandbox(context).pay_reading(value)
    return value


@pass_context
def _copied(context: Context, value: Any) -> Any:
    _sandbox(context).pay_copying(value)
    return value


@pass_context
def _searched(context: Context, value: Any) -> Any:
    """The right side of `in`: a mapping is asked and not read."""
    if not isinstance(value, Mapping):
        _sandbox(context).pay_reading(value)
    return value
