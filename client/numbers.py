"""What a caller passes, as an array of numbers: nothing becomes a number in silence that was none."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatestream.client.errors import InputError, NotFiniteError, TokenOutOfRangeError

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Place = tuple[int, ...]
"""Indices of a value in what was passed."""

_PLAIN = frozenset({int, float})
_TEXT = frozenset({str})
_INT64 = np.iinfo(np.int64)
_FLOAT64_MAX = int(np.finfo(np.float64).max)
_DEPTH = 32
_SHOWN = 60


class Unfit(ValueError):
    """A value that does not fit, and where it stands.

    Attributes:
        what: the value, with its type where that is what is wrong with it.
        place: its indices; empty: of no single value.
        expected: what was expected instead, as the end of a sentence; empty: a number of the input's type.
        kind: of the error that it is for the caller.
    """

    def __init__(self, what: str, place: Place, expected: str = "", kind: type[InputError] = InputError) -> None:
        super().__init__(what)
        self.what = what
        self.place = place
        self.expected = expected
        self.kind = kind


def shown(value: object) -> str:
    """A value with its type, however large it is, in few characters."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a whole number of {value.bit_length()} bits"
    try:
        text = repr(value.item() if isinstance(value, np.generic) else value)
    except Exception:
        text = "a value"
    return f"{text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'} ({type(value).__name__})"


def numbers_of(value: object, *, whole: bool) -> Array:
    """An array, of numbers or of text.

    Args:
        value: an array, nested lists, or anything else that NumPy takes for an array.
        whole: of whole numbers; floats are refused, also 2.0.

    Raises:
        Unfit: a masked value, a bool, or anything else that is no number; lists of unlike lengths.
    """
    kinds: set[type] = set()
    plain = _plain(value, (), kinds)
    if str in kinds and len(kinds) > 1:
        raise Unfit("text among numbers", ())
    try:
        array = np.asarray(plain)
    except ValueError:
        raise _uneven(plain, ()) from None
    kind = array.dtype.kind
    if whole and kind in "fO":
        each = np.ndenumerate(array if plain is array else np.array(plain, object))
        for place, number in each:
            if not isinstance(number, int | np.integer) or not _INT64.min <= number <= _INT64.max:
                raise Unfit(shown(number), place)
    elif kind == "O":
        # Whole numbers beyond 64 bits: a float holds them as well as others.
        for place, number in np.ndenumerate(array):
            if abs(number) > _FLOAT64_MAX:
                raise Unfit(shown(number), place)
        return array.astype(np.float64)
    return array


def floats_of(array: Array, dtype: np.dtype[Any], ignored: Bools | None = None) -> Array:
    """Numbers as floats of a type, contiguous.

    Args:
        array: numbers of any type.
        dtype: the type.
        ignored: of the array's shape: where anything may stand.

    Raises:
        Unfit: NaN, infinity, or more than the type holds.
    """
    # Whatever the caller has NumPy do about numbers that are too large: they are reported here.
    with np.errstate(all="ignore"):
        floats = np.asarray(array, dtype, order="C")
    good = np.isfinite(floats)
    # On few numbers in a third of the time of ndarray.all().
    if np.count_nonzero(good) < good.size and (place := _first_bad(good, ignored)) is not None:
        expected = f"finite numbers, at most {np.finfo(dtype).max:.8g} in size, were expected"
        raise Unfit(str(array[place].item()), place, expected, NotFiniteError)
    return floats


def ids_of(array: Array, dtype: np.dtype[Any], tokens: int, ignored: Bools | None = None) -> Array:
    """Whole numbers as int64, contiguous.

    Args:
        array: whole numbers of any type.
        dtype: int64 of some byte order.
        tokens: each is from 0 to less than that; 0: whatever int64 holds.
        ignored: of the array's shape: where anything may stand.

    Raises:
        Unfit: another number.
    """
    ids = np.asarray(array, dtype, order="C")
    if tokens:
        # Below 0 is far above as an unsigned number, and so is what does not fit in 63 bits.
        good = ids.view(np.uint64) < tokens
    elif array.dtype.kind == "u":
        good = ids >= 0
    else:
        return ids
    if np.count_nonzero(good) < good.size and (place := _first_bad(good, ignored)) is not None:
        expected = (f"0 to {tokens - 1}" if tokens else f"at most {_INT64.max}") + " was expected"
        raise Unfit(str(array[place].item()), place, expected, TokenOutOfRangeError)
    return ids


def _plain(value: Any, place: Place, kinds: set[type]) -> Any:
    """Lists and arrays of numbers or of text; what was found is added to `kinds`, as float or str.

    Raises:
        Unfit: something else.
    """
    kind = type(value)
    if kind in _PLAIN:
        kinds.add(float)
        return value
    if kind is str:
        kinds.add(str)
        return value
    if len(place) > _DEPTH:
        raise Unfit(f"lists nested more than {_DEPTH} deep", ())
    if isinstance(value, list | tuple):
        return _items(value, place, kinds)
    if isinstance(value, np.ndarray | np.generic) or hasattr(kind, "__array__") or _is_buffer(value):
        return _array(value, place, kinds)
    if hasattr(kind, "__len__") and hasattr(kind, "__getitem__") and not isinstance(value, Mapping | bytes):
        return _items(list(value), place, kinds)
    raise Unfit(shown(value), place)


def _items(values: Any, place: Place, kinds: set[type]) -> Any:
    found = set(map(type, values))
    if found <= _PLAIN or found == _TEXT:
        kinds.update({float} if found <= _PLAIN else _TEXT)
        return values
    return [_plain(item, (*place, k), kinds) for k, item in enumerate(values)]


def _array(value: Any, place: Place, kinds: set[type]) -> Any:
    try:
        array = np.asanyarray(value)
    except Exception as error:
        raise Unfit(f"{shown(value)}, which is no array: {error}", place) from error
    if isinstance(array, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(array)
        if mask.any():
            raise Unfit("a masked value", place + _first(mask))
        array = array.data
    kind = array.dtype.kind
    if kind == "O":
        # Of plain numbers as good as any; else this finds the first that is none.
        value = array.tolist()
        if array.ndim == 0 and type(value) not in (_PLAIN | _TEXT):
            raise Unfit(shown(value), place)
        return _plain(value, place, kinds)
    if kind in "UT":
        kinds.add(str)
        return np.asarray(array, str)
    if kind not in "iuf":
        what = shown(array[(0,) * array.ndim]) if array.size and kind in "bc" else f"{array.dtype} numbers"
        raise Unfit(what, place + (0,) * array.ndim if array.size else place)
    kinds.add(float)
    return np.asarray(array)


def _is_buffer(value: object) -> bool:
    if isinstance(value, bytes):
        return False
    try:
        memoryview(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def _uneven(value: Any, place: Place) -> Unfit:
    """Which of these lists is not as the first beside it."""
    for k, item in enumerate(value):
        if _shape(item) != _shape(value[0]):
            return Unfit(f"shape {list(_shape(item))} beside shape {list(_shape(value[0]))}", (*place, k))
    within = (_uneven(item, (*place, k)) for k, item in enumerate(value) if isinstance(item, list | tuple))
    return next((each for each in within if each.place), Unfit("lists of unlike lengths", ()))


def _shape(value: Any) -> Place:
    if isinstance(value, list | tuple):
        return (len(value), *_shape(value[0])) if value else (0,)
    return tuple(np.shape(value))


def _first(bad: Bools) -> Place:
    """Where the first True stands."""
    return tuple(int(k) for k in np.unravel_index(int(bad.argmax()), bad.shape))


def _first_bad(good: Bools, ignored: Bools | None) -> Place | None:
    bad = ~good if ignored is None else ~(good | ignored)
    return _first(bad) if bad.any() else None
