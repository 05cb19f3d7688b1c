"""Beam with a memory, for tests: more than half of a small `prepare` is Beam looking up what it knows.

It parses its flags anew for every step of a pipeline (700 times a `prepare`), inspects every method of every
DoFn again and again (17,000 times), reads the source of its functions (76 times), and walks the globals of
all modules to measure what it caches (26 times). Tests that start processes use Beam as it is.
"""

import copy
import functools
import sys
import types

import pytest


@pytest.fixture(scope="session", autouse=True)
def quick_beam():
    """Parses flags once for each class of options, and inspects each method once, until the last test."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.worker import statecache
    from apache_beam.transforms import core, userstate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "_check_fn_use_yield_and_return", _once(core._check_fn_use_yield_and_return))
        patch.setattr(userstate, "get_dofn_specs", _once_a_class(userstate.get_dofn_specs))
        patch.setattr(statecache, "get_deep_size", sys.getsizeof)  # what tests cache is far from filling it
        patch.setattr(PipelineOptions, "view_as", _view_as)
        patch.setattr(core, "get_function_args_defaults", _remembering(core.get_function_args_defaults))
        yield


def _view_as(options, cls):
    """As PipelineOptions.view_as: a view shares all values with the options that it is a view of."""
    view = cls.__new__(cls)
    view._flags, view._all_options = options._flags, options._all_options
    view._visible_options = _parsed(cls, None if options._flags is None else tuple(options._flags))
    for name in view._visible_option_list():
        if name not in view._all_options:
            view._all_options[name] = copy.copy(getattr(view._visible_options, name))
    return view


@functools.cache
def _parsed(cls, flags):
    return cls(flags)._visible_options


def _remembering(inspect):
    """get_function_args_defaults; what is no method may be made for one pipeline, so it is not remembered."""
    of_method = functools.cache(lambda function: inspect(types.MethodType(function, object())))

    def get(function):
        if not isinstance(function, types.MethodType):
            return inspect(function)
        arguments, defaults = of_method(function.__func__)
        return [*arguments], [*defaults]

    return get


def _once(check):
    """A check of a function's source that looks at each source once."""
    found = {}

    def checked(function):
        code = getattr(function, "__code__", None)
        if code is None:
            return check(function)
        if code not in found:
            found[code] = check(function)
        return found[code]

    return checked


def _once_a_class(inspect):
    """get_dofn_specs, which depends on the methods of a DoFn: on its class, unless it has some of its own."""
    found = {}

    def get(function):
        if any(isinstance(value, types.MethodType) for value in vars(function).values()):
            return inspect(function)
        if type(function) not in found:
            found[type(function)] = inspect(function)
        states, timers = found[type(function)]
        return {*states}, {*timers}

    return get
