"""What hypothesis makes: JSON values, their text, and white space between tokens."""

from hypothesis import strategies as st

TEXTS = st.text() | st.text(st.sampled_from('"\\/{}[]:,\u2028\u2029\x00\x85 \t\r\nu😀'))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=20
)
SPACE = st.text(" \t\r\n", max_size=4)
