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
_TRUTH = frozenset({bool})
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


def numbers_of(value: object, *, whole: bool, truth: bool = False) -> Array:
    """An array, of numbers or of text.

    Args:
        value: an array, nested lists, or anything else that NumPy takes for an array.
        whole: of whole numbers; floats are refused, also 2.0.
        truth: True and False are numbers too, 1 and 0.

    Raises:
        Unfit: a masked value, a bool, or anything else that is no number; lists of unlike lengths.
    """
    kinds: set[type] = set()
    plain = _plain(value, (), kinds, _PLAIN | _TRUTH if truth else _PLAIN)
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
    if array.dtype == dtype:
        floats = np.asarray(array, order="C")
    else:
        # Whatever the caller has NumPy do about numbers that are too large: they are reported here.
        with np.errstate(all="ignore"):
            floats = np.asarray(array, dtype, order="C")
    good = np.isfinite(floats)
    # On few numbers in a third of the time of ndarray.all().
    if np.count_nonzero(good) < good.size and (place := _first_bad(good, ignored)) is not None:
        expected = f"finite numbers, at most {np.finfo(dtype).max:.8g} in size, were expected"
        raise Unfit(str(array[place].item()), place, expected, NotFiniteError)
    return floats


def ids_of(array: Array, dtype: np.dtype[Any], limit: int, ignored: Bools | None = None) -> Array:
    """Whole numbers as whole numbers of a type, contiguous.

    Args:
        array: whole numbers of any type.
        dtype: the type.
        limit: each is from 0 to less than that; 0: whatever the type holds.
        ignored: of the array's shape: where anything may stand.

    Raises:
        Unfit: another number.
    """
    info = np.iinfo(dtype)
    least, most = (0, min(limit - 1, int(info.max))) if limit else (int(info.min), int(info.max))
    with np.errstate(all="ignore"):
        ids = np.asarray(array, dtype, order="C")
    if not limit and np.can_cast(array.dtype, dtype):
        return ids
    if limit and dtype.itemsize == 8:
        # Below 0 is far above as an unsigned number, and so is what does not fit in 63 bits.
        good = ids.view(np.uint64) < limit
    else:
        # An unsigned number is not below 0.
        good = array <= most if array.dtype.kind == "u" else (array >= least) & (array <= most)
    if np.count_nonzero(good) < good.size and (place := _first_bad(good, ignored)) is not None:
        expected = f"at most {most}" if most == _INT64.max else f"{least} to {most}"
        raise Unfit(str(array[place].item()), place, f"{expected} was expected", TokenOutOfRangeError)
    return ids


def bools_of(array: Array, ignored: Bools | None = None) -> Array:
    """Numbers that are 0 and 1, or bools, as bools, contiguous.

    Args:
        array: bools, or whole numbers of any type.
        ignored: of the array's shape: where anything may stand.

    Raises:
        Unfit: another number.
    """
    if array.dtype.kind != "b":
        good = (array == 0) | (array == 1)
        if np.count_nonzero(good) < good.size and (place := _first_bad(good, ignored)) is not None:
            raise Unfit(str(array[place].item()), place, "true or false, 1 or 0, was expected", TokenOutOfRangeError)
    return np.asarray(array, np.bool_, order="C")


def as_column(array: Array, dtype: np.dtype[Any], limit: int = 0, ignored: Bools | None = None) -> Array:
    """What `numbers_of` gives, as numbers of a type: see `floats_of`, `ids_of` and `bools_of`."""
    if dtype.kind == "f":
        return floats_of(array, dtype, ignored)
    return bools_of(array, ignored) if dtype.kind == "b" else ids_of(array, dtype, limit, ignored)


def _plain(value: Any, place: Place, kinds: set[type], taken: frozenset[type]) -> Any:
    """Lists and arrays of numbers or of text; what was found is added to `kinds`, as float or str.

    Args:
        value: what is looked at.
        place: where it stands.
        kinds: see above.
        taken: the types of numbers that are taken.

    Raises:
        Unfit: something else.
    """
    kind = type(value)
    if kind in taken:
        kinds.add(float)
        return value
    if kind is str:
        kinds.add(str)
        return value
    if len(place) > _DEPTH:
        raise Unfit(f"lists nested more than {_DEPTH} deep", ())
    if isinstance(value, list | tuple):
        return _items(value, place, kinds, taken)
    if isinstance(value, np.ndarray | np.generic) or hasattr(kind, "__array__") or _is_buffer(value):
        return _array(value, place, kinds, taken)
    if hasattr(kind, "__len__") and hasattr(kind, "__getitem__") and not isinstance(value, Mapping | bytes):
        return _items(list(value), place, kinds, taken)
    raise Unfit(shown(value), place)


def _items(values: Any, place: Place, kinds: set[type], taken: frozenset[type]) -> Any:
    found = set(map(type, values))
    if found <= taken or found == _TEXT:
        kinds.update({float} if found <= taken else _TEXT)
        return values
    return [_plain(item, (*place, k), kinds, taken) for k, item in enumerate(values)]


def _array(value: Any, place: Place, kinds: set[type], taken: frozenset[type]) -> Any:
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
        if array.ndim == 0 and type(value) not in (taken | _TEXT):
            raise Unfit(shown(value), place)
        return _plain(value, place, kinds, taken)
    if kind in "UT":
        kinds.add(str)
        return np.asarray(array, str)
    if kind not in "iuf" and not (kind == "b" and bool in taken):
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
